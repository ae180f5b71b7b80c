/* arch/list.h: which mapping serves which architecture. A new one is a line here; see ../README.md.        */
#ifndef ARCH_LIST_H_INCLUDED
#define ARCH_LIST_H_INCLUDED
#include "llama.h"
#include "gemma.h"
#include "gpt.h"
#include "phi.h"
#include "ssm.h"
#include "typeseg.h"
#include "lmuformer.h"

typedef struct conv_arch {
    const char *name;                 /* model_type of config.json, or general.architecture of GGUF         */
    const char *class_name;           /* config.json: the one class of "architectures" that is meant        */
    void      (*map)(conv *c);
} conv_arch;

static const conv_arch conv_hf_archs[] = {
    { "arcee", "ArceeForCausalLM", arch_arcee },
    { "bamba", "BambaForCausalLM", arch_bamba },
    { "biogpt", "BioGptForCausalLM", arch_biogpt },
    { "codegen", "CodeGenForCausalLM", arch_gptj },
    { "cohere", "CohereForCausalLM", arch_cohere },
    { "cohere2", "Cohere2ForCausalLM", arch_cohere },
    { "cwm", "CwmForCausalLM", arch_cwm },
    { "ernie4_5", "Ernie4_5ForCausalLM", arch_ernie4_5 },
    { "exaone4", "Exaone4ForCausalLM", arch_exaone4 },
    { "falcon", "FalconForCausalLM", arch_falcon },
    { "falcon_h1", "FalconH1ForCausalLM", arch_falcon_h1 },
    { "falcon_mamba", "FalconMambaForCausalLM", arch_mamba },
    { "gemma", "GemmaForCausalLM", arch_gemma },
    { "gemma2", "Gemma2ForCausalLM", arch_gemma2 },
    { "gemma3_text", "Gemma3ForCausalLM", arch_gemma3 },
    { "glm", "GlmForCausalLM", arch_glm },
    { "glm4", "Glm4ForCausalLM", arch_glm },
    { "gpt2", "GPT2LMHeadModel", arch_gpt2 },
    { "gpt_bigcode", "GPTBigCodeForCausalLM", arch_gpt2 },
    { "gpt_neo", "GPTNeoForCausalLM", arch_gpt_neo },
    { "gpt_neox", "GPTNeoXForCausalLM", arch_gpt_neox },
    { "gptj", "GPTJForCausalLM", arch_gptj },
    { "granite", "GraniteForCausalLM", arch_granite },
    { "granitemoehybrid", "GraniteMoeHybridForCausalLM", arch_granite_hybrid },
    { "helium", "HeliumForCausalLM", arch_helium },
    { "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", arch_hunyuan },
    { "lfm2", "Lfm2ForCausalLM", arch_lfm2 },
    { "lfm3", "Lfm3ForCausalLM", arch_lfm3 },
    { "llama", "LlamaForCausalLM", arch_llama },
    { "lmuformer", NULL, arch_lmuformer },
    { "mamba", "MambaForCausalLM", arch_mamba },
    { "mamba2", "Mamba2ForCausalLM", arch_mamba2 },
    { "mamba_ssm", NULL, arch_state_spaces },          /* state-spaces/mamba's own files name no type       */
    { "ministral", "MinistralForCausalLM", arch_ministral },
    { "mistral", "MistralForCausalLM", arch_mistral },
    { "nanochat", "NanoChatForCausalLM", arch_nanochat },
    { "nemotron", "NemotronForCausalLM", arch_nemotron },
    { "olmo", "OlmoForCausalLM", arch_olmo },
    { "olmo2", "Olmo2ForCausalLM", arch_olmo2 },
    { "olmo3", "Olmo3ForCausalLM", arch_olmo3 },
    { "openai-gpt", "OpenAIGPTLMHeadModel", arch_openai_gpt },
    { "opt", "OPTForCausalLM", arch_opt },
    { "persimmon", "PersimmonForCausalLM", arch_persimmon },
    { "phi", "PhiForCausalLM", arch_phi },
    { "phi3", "Phi3ForCausalLM", arch_phi3 },
    { "qwen2", "Qwen2ForCausalLM", arch_qwen2 },
    { "qwen3", "Qwen3ForCausalLM", arch_qwen3 },
    { "recurrent_gemma", "RecurrentGemmaForCausalLM", arch_recurrent_gemma },
    { "seed_oss", "SeedOssForCausalLM", arch_seed_oss },
    { "smollm3", "SmolLM3ForCausalLM", arch_smollm3 },
    { "stablelm", "StableLmForCausalLM", arch_stablelm },
    { "starcoder2", "Starcoder2ForCausalLM", arch_starcoder2 },
    { "typeseg", NULL, arch_typeseg },
    { "vaultgemma", "VaultGemmaForCausalLM", arch_gemma2 },
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
