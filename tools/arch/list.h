/* arch/list.h: which mapping serves which architecture. A new one is a line here; see ../README.md.        */
#ifndef ARCH_LIST_H_INCLUDED
#define ARCH_LIST_H_INCLUDED
#include "llama.h"
#include "gemma.h"
#include "gpt.h"
#include "phi.h"
#include "ssm.h"
#include "linear_hybrid.h"
#include "ssm_hybrid.h"
#include "linear.h"
#include "moe_hybrid.h"
#include "bert.h"
#include "gguf_more.h"
#include "gguf_rwkv.h"
#include "reformer.h"
#include "xlnet.h"
#include "gemma_nested.h"
#include "llama_kin.h"
#include "sines.h"
#include "typeseg.h"
#include "lmuformer.h"
#include "deepseek_v4.h"
#include "recipe.h"

typedef struct conv_arch {
    const char *name;                 /* model_type of config.json, or general.architecture of GGUF         */
    const char *class_name;           /* config.json: the one class of "architectures" that is meant        */
    void      (*map)(conv *c);
} conv_arch;

static const conv_arch conv_hf_archs[] = {
    { "abc", "ABCForCausalLM", arch_abc },
    { "afmoe", "AfmoeForCausalLM", arch_afmoe },
    { "apertus", "ApertusForCausalLM", arch_apertus },
    { "arcee", "ArceeForCausalLM", arch_arcee },
    { "bailing_hybrid", "BailingHybridForCausalLM", arch_bailing_hybrid },
    { "bamba", "BambaForCausalLM", arch_bamba },
    { "bert", "BertLMHeadModel", arch_bert_lm },
    { "biogpt", "BioGptForCausalLM", arch_biogpt },
    { "bitnet", "BitNetForCausalLM", arch_bitnet },
    { "bloom", "BloomForCausalLM", arch_bloom },
    { "codegen", "CodeGenForCausalLM", arch_gptj },
    { "cohere", "CohereForCausalLM", arch_cohere },
    { "cohere2", "Cohere2ForCausalLM", arch_cohere },
    { "comba", "CombaForCausalLM", arch_comba },
    { "ctrl", "CTRLLMHeadModel", arch_ctrl },
    { "cwm", "CwmForCausalLM", arch_cwm },
    { "dbrx", "DbrxForCausalLM", arch_dbrx },
    { "deepseek_v2", "DeepseekV2ForCausalLM", arch_deepseek_v2 },
    { "deepseek_v3", "DeepseekV3ForCausalLM", arch_deepseek_v3 },
    { "deepseek_v32", "DeepseekV32ForCausalLM", arch_deepseek_v32 },
    { "deepseek_v4", "DeepseekV4ForCausalLM", arch_deepseek_v4 },
    { "delta_net", "DeltaNetForCausalLM", arch_delta_net },
    { "diffllama", "DiffLlamaForCausalLM", arch_diffllama },
    { "doge", "DogeForCausalLM", arch_doge },
    { "dots1", "Dots1ForCausalLM", arch_dots1 },
    { "ernie4_5", "Ernie4_5ForCausalLM", arch_ernie4_5 },
    { "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", arch_ernie4_5_moe },
    { "exaone4", "Exaone4ForCausalLM", arch_exaone4 },
    { "exaone_moe", "ExaoneMoeForCausalLM", arch_exaone_moe },
    { "falcon", "FalconForCausalLM", arch_falcon },
    { "falcon_h1", "FalconH1ForCausalLM", arch_falcon_h1 },
    { "falcon_mamba", "FalconMambaForCausalLM", arch_mamba },
    { "flex_olmo", "FlexOlmoForCausalLM", arch_olmoe },
    { "gated_deltanet", "GatedDeltaNetForCausalLM", arch_gated_deltanet },
    { "gated_deltaproduct", "GatedDeltaProductForCausalLM", arch_gated_deltaproduct },
    { "gemma", "GemmaForCausalLM", arch_gemma },
    { "gemma2", "Gemma2ForCausalLM", arch_gemma2 },
    { "gemma3_text", "Gemma3ForCausalLM", arch_gemma3 },
    { "gemma3n_text", "Gemma3nForCausalLM", arch_gemma3n },
    { "gemma4_text", "Gemma4ForCausalLM", arch_gemma4 },
    { "gla", "GLAForCausalLM", arch_gla },
    { "glm", "GlmForCausalLM", arch_glm },
    { "glm4", "Glm4ForCausalLM", arch_glm },
    { "glm4_moe", "Glm4MoeForCausalLM", arch_glm4_moe },
    { "glm4_moe_lite", "Glm4MoeLiteForCausalLM", arch_glm4_moe_lite },
    { "glm_moe_dsa", "GlmMoeDsaForCausalLM", arch_glm_moe_dsa },
    { "gpt2", "GPT2LMHeadModel", arch_gpt2 },
    { "gpt_bigcode", "GPTBigCodeForCausalLM", arch_gpt2 },
    { "gpt_neo", "GPTNeoForCausalLM", arch_gpt_neo },
    { "gpt_neox", "GPTNeoXForCausalLM", arch_gpt_neox },
    { "gpt_oss", "GptOssForCausalLM", arch_gpt_oss },
    { "gpt_neox_japanese", "GPTNeoXJapaneseForCausalLM", arch_gpt_neox_japanese },
    { "gptj", "GPTJForCausalLM", arch_gptj },
    { "granite", "GraniteForCausalLM", arch_granite },
    { "granitemoe", "GraniteMoeForCausalLM", arch_granitemoe },
    { "granitemoehybrid", "GraniteMoeHybridForCausalLM", arch_granite_hybrid },
    { "granitemoeshared", "GraniteMoeSharedForCausalLM", arch_granitemoe },
    { "gsa", "GSAForCausalLM", arch_gsa },
    { "helium", "HeliumForCausalLM", arch_helium },
    { "hgrn", "HGRNForCausalLM", arch_hgrn },
    { "hgrn2", "HGRN2ForCausalLM", arch_hgrn2 },
    { "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", arch_hunyuan },
    { "hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", arch_hunyuan_moe },
    { "jamba", "JambaForCausalLM", arch_jamba },
    { "jetmoe", "JetMoeForCausalLM", arch_jetmoe },
    { "kda", "KDAForCausalLM", arch_kda },
    { "kimi_linear", "KimiLinearForCausalLM", arch_kimi_linear },
    { "laguna", "LagunaForCausalLM", arch_laguna },
    { "lara_mini", "LaraMiniForCausalLM", arch_lara_mini },
    { "lfm2", "Lfm2ForCausalLM", arch_lfm2 },
    { "lfm2_moe", "Lfm2MoeForCausalLM", arch_lfm2 },
    { "lfm3", "Lfm3ForCausalLM", arch_lfm3 },
    { "lightnet", "LightNetForCausalLM", arch_lightnet },
    { "linear_attn", "LinearAttentionForCausalLM", arch_linear_attn },
    { "llama", "LlamaForCausalLM", arch_llama },
    { "llama4_text", "Llama4ForCausalLM", arch_llama4 },
    { "lmuformer", NULL, arch_lmuformer },
    { "longcat_flash", "LongcatFlashForCausalLM", arch_longcat_flash },
    { "mamba", "MambaForCausalLM", arch_mamba },
    { "mamba2", "Mamba2ForCausalLM", arch_mamba2 },
    { "mamba_ssm", NULL, arch_state_spaces },          /* state-spaces/mamba's own files name no type       */
    { "mesa_net", "MesaNetForCausalLM", arch_mesa_net },
    { "mimo_v2_flash", "MiMoV2FlashForCausalLM", arch_mimo_v2_flash },
    { "minicpm3", "MiniCPM3ForCausalLM", arch_minicpm3 },
    { "minimax", "MiniMaxForCausalLM", arch_minimax },
    { "minimax_m2", "MiniMaxM2ForCausalLM", arch_minimax_m2 },
    { "ministral", "MinistralForCausalLM", arch_ministral },
    { "ministral3", "Ministral3ForCausalLM", arch_ministral3 },
    { "mistral", "MistralForCausalLM", arch_mistral },
    { "mixtral", "MixtralForCausalLM", arch_mixtral },
    { "modernbert-decoder", "ModernBertDecoderForCausalLM", arch_modernbert_decoder },
    { "mpt", "MPTForCausalLM", arch_mpt },
    { "mpt", "MptForCausalLM", arch_mpt },
    { "nanochat", "NanoChatForCausalLM", arch_nanochat },
    { "nemotron", "NemotronForCausalLM", arch_nemotron },
    { "nemotron_h", "NemotronHForCausalLM", arch_nemotron_h },
    { "olmo", "OlmoForCausalLM", arch_olmo },
    { "olmo2", "Olmo2ForCausalLM", arch_olmo2 },
    { "olmo3", "Olmo3ForCausalLM", arch_olmo3 },
    { "olmo_hybrid", "OlmoHybridForCausalLM", arch_olmo_hybrid },
    { "olmoe", "OlmoeForCausalLM", arch_olmoe },
    { "openai-gpt", "OpenAIGPTLMHeadModel", arch_openai_gpt },
    { "opt", "OPTForCausalLM", arch_opt },
    { "persimmon", "PersimmonForCausalLM", arch_persimmon },
    { "phi", "PhiForCausalLM", arch_phi },
    { "phi3", "Phi3ForCausalLM", arch_phi3 },
    { "phimoe", "PhimoeForCausalLM", arch_phimoe },
    { "qwen2", "Qwen2ForCausalLM", arch_qwen2 },
    { "qwen2_moe", "Qwen2MoeForCausalLM", arch_qwen2_moe },
    { "qwen3", "Qwen3ForCausalLM", arch_qwen3 },
    { "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", arch_qwen_hybrid },
    { "qwen3_5_text", "Qwen3_5ForCausalLM", arch_qwen_hybrid },
    { "qwen3_moe", "Qwen3MoeForCausalLM", arch_qwen3_moe },
    { "qwen3_next", "Qwen3NextForCausalLM", arch_qwen_hybrid },
    { "recipe", NULL, arch_recipe },                   /* config.json says the recipe itself                */
    { "recurrent_gemma", "RecurrentGemmaForCausalLM", arch_recurrent_gemma },
    { "reformer", "ReformerModelWithLMHead", arch_reformer },
    { "retnet", "RetNetForCausalLM", arch_retnet },
    { "rwkv", "RwkvForCausalLM", arch_rwkv },
    { "rwkv6", "RWKV6ForCausalLM", arch_rwkv6 },
    { "rwkv7", "RWKV7ForCausalLM", arch_rwkv7 },
    { "seed_oss", "SeedOssForCausalLM", arch_seed_oss },
    { "smollm3", "SmolLM3ForCausalLM", arch_smollm3 },
    { "solar_open", "SolarOpenForCausalLM", arch_solar_open },
    { "stablelm", "StableLmForCausalLM", arch_stablelm },
    { "starcoder2", "Starcoder2ForCausalLM", arch_starcoder2 },
    { "typeseg", NULL, arch_typeseg },
    { "vaultgemma", "VaultGemmaForCausalLM", arch_gemma2 },
    { "xglm", "XGLMForCausalLM", arch_xglm },
    { "xlnet", "XLNetLMHeadModel", arch_xlnet },
    { "xlstm", "xLSTMForCausalLM", arch_xlstm },
    { "youtu", "YoutuForCausalLM", arch_youtu },
    { "zamba", "ZambaForCausalLM", arch_zamba1 },
    { "zamba2", "Zamba2ForCausalLM", arch_zamba2 },
    { "zaya", "ZayaForCausalLM", arch_zaya },
    { NULL, NULL, NULL }
};

static const conv_arch conv_gguf_archs[] = {
    { "arwkv7", NULL, arch_gguf_rwkv_qwen2 },
    { "bloom", NULL, arch_gguf_bloom },
    { "cohere2", NULL, arch_gguf_command_r },
    { "command-r", NULL, arch_gguf_command_r },
    { "deepseek2", NULL, arch_gguf_deepseek2 },
    { "falcon", NULL, arch_gguf_falcon },
    { "gemma", NULL, arch_gguf_gemma },
    { "gemma2", NULL, arch_gguf_gemma2 },
    { "gemma3", NULL, arch_gguf_gemma3 },
    { "gpt2", NULL, arch_gguf_gpt2 },
    { "gptneox", NULL, arch_gguf_gptneox },
    { "llama", NULL, arch_gguf_llama_any },
    { "mamba", NULL, arch_gguf_mamba },
    { "mamba2", NULL, arch_gguf_mamba },
    { "mpt", NULL, arch_gguf_mpt },
    { "olmo", NULL, arch_gguf_olmo },
    { "olmo2", NULL, arch_gguf_olmo2 },
    { "phi2", NULL, arch_gguf_phi2 },
    { "olmoe", NULL, arch_gguf_moe },
    { "phi3", NULL, arch_gguf_phi3 },
    { "qwen2", NULL, arch_gguf_qwen2 },
    { "qwen2moe", NULL, arch_gguf_moe },
    { "qwen3", NULL, arch_gguf_qwen3 },
    { "qwen3moe", NULL, arch_gguf_moe },
    { "rwkv6", NULL, arch_gguf_rwkv },
    { "rwkv6qwen2", NULL, arch_gguf_rwkv_qwen2 },
    { "rwkv7", NULL, arch_gguf_rwkv },
    { "smollm3", NULL, arch_gguf_smollm3 },
    { "stablelm", NULL, arch_gguf_stablelm },
    { "starcoder", NULL, arch_gguf_starcoder },
    { "starcoder2", NULL, arch_gguf_starcoder2 },
    { NULL, NULL, NULL }
};

#endif /* ARCH_LIST_H_INCLUDED */
