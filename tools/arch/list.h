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
#include "typeseg.h"
#include "lmuformer.h"
#include "recipe.h"

typedef struct conv_arch {
    const char *name;                 /* model_type of config.json, or general.architecture of GGUF         */
    const char *class_name;           /* config.json: the one class of "architectures" that is meant        */
    void      (*map)(conv *c);
} conv_arch;

static const conv_arch conv_hf_archs[] = {
    { "abc", "ABCForCausalLM", arch_abc },
    { "arcee", "ArceeForCausalLM", arch_arcee },
    { "bailing_hybrid", "BailingHybridForCausalLM", arch_bailing_hybrid },
    { "bamba", "BambaForCausalLM", arch_bamba },
    { "biogpt", "BioGptForCausalLM", arch_biogpt },
    { "codegen", "CodeGenForCausalLM", arch_gptj },
    { "cohere", "CohereForCausalLM", arch_cohere },
    { "cohere2", "Cohere2ForCausalLM", arch_cohere },
    { "comba", "CombaForCausalLM", arch_comba },
    { "cwm", "CwmForCausalLM", arch_cwm },
    { "delta_net", "DeltaNetForCausalLM", arch_delta_net },
    { "ernie4_5", "Ernie4_5ForCausalLM", arch_ernie4_5 },
    { "exaone4", "Exaone4ForCausalLM", arch_exaone4 },
    { "falcon", "FalconForCausalLM", arch_falcon },
    { "falcon_h1", "FalconH1ForCausalLM", arch_falcon_h1 },
    { "falcon_mamba", "FalconMambaForCausalLM", arch_mamba },
    { "gated_deltanet", "GatedDeltaNetForCausalLM", arch_gated_deltanet },
    { "gated_deltaproduct", "GatedDeltaProductForCausalLM", arch_gated_deltaproduct },
    { "gemma", "GemmaForCausalLM", arch_gemma },
    { "gemma2", "Gemma2ForCausalLM", arch_gemma2 },
    { "gemma3_text", "Gemma3ForCausalLM", arch_gemma3 },
    { "gla", "GLAForCausalLM", arch_gla },
    { "glm", "GlmForCausalLM", arch_glm },
    { "glm4", "Glm4ForCausalLM", arch_glm },
    { "gpt2", "GPT2LMHeadModel", arch_gpt2 },
    { "gpt_bigcode", "GPTBigCodeForCausalLM", arch_gpt2 },
    { "gpt_neo", "GPTNeoForCausalLM", arch_gpt_neo },
    { "gpt_neox", "GPTNeoXForCausalLM", arch_gpt_neox },
    { "gptj", "GPTJForCausalLM", arch_gptj },
    { "granite", "GraniteForCausalLM", arch_granite },
    { "granitemoehybrid", "GraniteMoeHybridForCausalLM", arch_granite_hybrid },
    { "gsa", "GSAForCausalLM", arch_gsa },
    { "helium", "HeliumForCausalLM", arch_helium },
    { "hgrn", "HGRNForCausalLM", arch_hgrn },
    { "hgrn2", "HGRN2ForCausalLM", arch_hgrn2 },
    { "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", arch_hunyuan },
    { "jamba", "JambaForCausalLM", arch_jamba },
    { "kda", "KDAForCausalLM", arch_kda },
    { "kimi_linear", "KimiLinearForCausalLM", arch_kimi_linear },
    { "lfm2", "Lfm2ForCausalLM", arch_lfm2 },
    { "lfm2_moe", "Lfm2MoeForCausalLM", arch_lfm2 },
    { "lfm3", "Lfm3ForCausalLM", arch_lfm3 },
    { "lightnet", "LightNetForCausalLM", arch_lightnet },
    { "linear_attn", "LinearAttentionForCausalLM", arch_linear_attn },
    { "llama", "LlamaForCausalLM", arch_llama },
    { "lmuformer", NULL, arch_lmuformer },
    { "mamba", "MambaForCausalLM", arch_mamba },
    { "mamba2", "Mamba2ForCausalLM", arch_mamba2 },
    { "mamba_ssm", NULL, arch_state_spaces },          /* state-spaces/mamba's own files name no type       */
    { "mesa_net", "MesaNetForCausalLM", arch_mesa_net },
    { "minimax", "MiniMaxForCausalLM", arch_minimax },
    { "ministral", "MinistralForCausalLM", arch_ministral },
    { "mistral", "MistralForCausalLM", arch_mistral },
    { "nanochat", "NanoChatForCausalLM", arch_nanochat },
    { "nemotron", "NemotronForCausalLM", arch_nemotron },
    { "nemotron_h", "NemotronHForCausalLM", arch_nemotron_h },
    { "olmo", "OlmoForCausalLM", arch_olmo },
    { "olmo2", "Olmo2ForCausalLM", arch_olmo2 },
    { "olmo3", "Olmo3ForCausalLM", arch_olmo3 },
    { "olmo_hybrid", "OlmoHybridForCausalLM", arch_olmo_hybrid },
    { "openai-gpt", "OpenAIGPTLMHeadModel", arch_openai_gpt },
    { "opt", "OPTForCausalLM", arch_opt },
    { "persimmon", "PersimmonForCausalLM", arch_persimmon },
    { "phi", "PhiForCausalLM", arch_phi },
    { "phi3", "Phi3ForCausalLM", arch_phi3 },
    { "qwen2", "Qwen2ForCausalLM", arch_qwen2 },
    { "qwen3", "Qwen3ForCausalLM", arch_qwen3 },
    { "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", arch_qwen_hybrid },
    { "qwen3_5_text", "Qwen3_5ForCausalLM", arch_qwen_hybrid },
    { "qwen3_next", "Qwen3NextForCausalLM", arch_qwen_hybrid },
    { "recipe", NULL, arch_recipe },                   /* config.json says the recipe itself                */
    { "recurrent_gemma", "RecurrentGemmaForCausalLM", arch_recurrent_gemma },
    { "retnet", "RetNetForCausalLM", arch_retnet },
    { "rwkv", "RwkvForCausalLM", arch_rwkv },
    { "rwkv6", "RWKV6ForCausalLM", arch_rwkv6 },
    { "rwkv7", "RWKV7ForCausalLM", arch_rwkv7 },
    { "seed_oss", "SeedOssForCausalLM", arch_seed_oss },
    { "smollm3", "SmolLM3ForCausalLM", arch_smollm3 },
    { "stablelm", "StableLmForCausalLM", arch_stablelm },
    { "starcoder2", "Starcoder2ForCausalLM", arch_starcoder2 },
    { "typeseg", NULL, arch_typeseg },
    { "vaultgemma", "VaultGemmaForCausalLM", arch_gemma2 },
    { "xlstm", "xLSTMForCausalLM", arch_xlstm },
    { "zamba", "ZambaForCausalLM", arch_zamba1 },
    { "zamba2", "Zamba2ForCausalLM", arch_zamba2 },
    { NULL, NULL, NULL }
};

static const conv_arch conv_gguf_archs[] = {
    { "gemma", NULL, arch_gguf_gemma },
    { "gemma2", NULL, arch_gguf_gemma2 },
    { "gemma3", NULL, arch_gguf_gemma3 },
    { "gpt2", NULL, arch_gguf_gpt2 },
    { "gptneox", NULL, arch_gguf_gptneox },
    { "llama", NULL, arch_gguf_llama },
    { "mamba", NULL, arch_gguf_mamba },
    { "mamba2", NULL, arch_gguf_mamba },
    { "phi3", NULL, arch_gguf_phi3 },
    { "qwen2", NULL, arch_gguf_qwen2 },
    { "qwen3", NULL, arch_gguf_qwen3 },
    { "smollm3", NULL, arch_gguf_smollm3 },
    { "stablelm", NULL, arch_gguf_stablelm },
    { NULL, NULL, NULL }
};

#endif /* ARCH_LIST_H_INCLUDED */
