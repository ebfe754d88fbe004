"""Settings of the policy and of its rollout engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from minirec.config.section import PathText, Section


class DemoModelConfig(Section):
    """The tiny Qwen2 that is built from the corpus when ``model.name`` is ``demo``."""

    vocabulary: int = Field(1500, ge=300)
    """Number of tokens of the demo model's byte-level BPE tokenizer."""
    hidden_size: int = Field(128, ge=32)
    """Width of the demo model."""
    layers: int = Field(2, ge=1)
    """Number of transformer blocks of the demo model."""
    heads: int = Field(4, ge=1)
    """Number of attention heads in each block."""
    warmup_steps: int = Field(150, ge=1)
    """Steps that pre-train the demo model when it is built."""
    warmup_match: float = Field(0, ge=0)
    """Weight of a second warm-up loss, which matches lists of items with an item of the list and
    emphasises analyses that repeat words of the list; 0 turns it off."""
    warmup_batch: int = Field(32, ge=1)
    """Number of texts in a warm-up step."""
    warmup_learning_rate: float = Field(2e-3, gt=0)
    """Learning rate of the warm-up."""

    @model_validator(mode="after")
    def _check(self) -> DemoModelConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the heads, "
                f"{2 * self.heads}; change one of the two"
            )
        return self


class ModelConfig(Section):
    """The policy: a causal LM of transformers with a LoRA adapter."""

    name: PathText = "demo"
    """Name of a model on the Hugging Face hub, or its local folder with safetensors, or a local
    GGUF file, which is converted once; demo builds a tiny model from the corpus."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the model's weights."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run."""
    lora_rank: int = Field(16, ge=1)
    """Rank r of the LoRA adapter."""
    lora_alpha: float = Field(32.0, gt=0)
    """The output of the LoRA adapter is multiplied by lora_alpha / r."""
    lora_targets: str = "all-linear"
    """Modules with a LoRA adapter, as peft's target_modules."""
    temperature: float = Field(0.02, gt=0)
    """Temperature tau of the softmax over item cosines."""
    prior: Literal["none", "shortcut"] = "none"
    """Collaborative prior that is added to the scores of the policy: shortcut adds co-occurrence,
    transitions and likeness of titles, with fitted weights."""
    max_item_tokens: int = Field(48, ge=4)
    """Texts of items are cut to this number of tokens."""
    max_prompt_tokens: int = Field(512, ge=16)
    """Prompts are cut to this number of tokens; the oldest titles are dropped."""
    demo: DemoModelConfig = DemoModelConfig()

    @property
    def gguf(self) -> bool:
        """Whether the model comes from a GGUF file."""
        return self.name.lower().endswith(".gguf")

    @property
    def built(self) -> bool:
        """Whether the stage `model` makes the folder of the model."""
        return self.name == "demo" or self.gguf


class RolloutConfig(Section):
    """The pool of rollout engines."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """Library that writes rollouts; auto takes vLLM on GPUs, and the faster one for the size of the
    model on CPUs."""
    adapter: Literal["auto", "lora", "merged"] = "auto"
    """How an engine gets the adapter: as LoRA, or merged into its weights; auto merges on CPUs."""
    max_new_tokens: int = Field(24, ge=0)
    """Largest number of tokens of a completion; 0 leaves the analysis out: the policy ranks right
    after the prompt, and no engine is started."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of rollouts."""
    prompts_per_call: PositiveInt | Literal["auto"] = "auto"
    """Number of prompts in one generate call, the work that one engine takes at a time; auto takes
    8 on CPUs, and on GPUs an equal share of a step for each engine."""
    save: bool = False
    """Whether each training keeps its rollouts in files, in rollouts of its folder, for replay."""
    replay: PathText | None = None
    """Folder of saved rollouts that the stage train reads instead of starting engines; null starts
    engines."""
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    """Share of a GPU's memory that an engine takes; it must be free when an engine starts."""
    kv_cache_mib: int | None = Field(None, ge=16)
    """KV cache of a vLLM engine in MiB; null takes 128 on CPUs, and on GPUs what the engine finds
    to be left of gpu_memory_utilization. Set it if engines restart while other processes compute on
    the same GPU."""
    deadline_s: float = Field(300, gt=0)
    """Seconds that one generate call may take."""
    start_deadline_s: float = Field(300, gt=0)
    """Seconds that an engine may take to start."""
    max_restarts: int = Field(3, ge=0)
    """How often an engine that died is restarted before the run ends."""

    @property
    def analysis(self) -> bool:
        """Whether the policy writes an analysis before it ranks."""
        return self.max_new_tokens > 0
