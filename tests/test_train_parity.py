"""Loss, log-probabilities and gradients against `trl.DPOTrainer`, in float32 on the CPU."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer

from rightcall.rendering import Renderer
from rightcall.train.data import load_rows
from rightcall.train.loop import build
from rightcall.train.policy import load_policy
from rightcall.train.trainer import Lora, TrainConfig
from tiny_models import build_tiny

# Turns end at the stop token: TRL trains what a template writes after it, which no model ever says.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BETA = 0.3
CLOSE = 1e-4


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def pairs(*, observations: bool) -> list[dict]:
    made = []
    for i in range(4):
        prompt = [turn("system", "Reply with one function call."), turn("user", f"Tom has {i} apples.")]
        chosen, rejected = [turn("assistant", f"add({i}, 3)")], [turn("assistant", f"stop({i}) or so")]
        if observations:
            chosen += [turn("user", f"The result is {i + 3}."), turn("assistant", f"stop({i + 3})")]
        made.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return made


def model_folder(folder: Path, architecture: str = "llama") -> Path:
    build_tiny(architecture, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def move(core, reference_seed: int = 5) -> None:
    """Away from the reference, so that margins are not zero: the same small noise on both sides."""
    generator = torch.Generator().manual_seed(reference_seed)
    with torch.no_grad():
        for parameter in (p for p in core.parameters() if p.requires_grad):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def gradients(core) -> dict[str, torch.Tensor]:
    return {
        name.replace("base_model.model.", ""): p.grad.clone()
        for name, p in core.named_parameters()
        if p.grad is not None
    }


def ours(config: TrainConfig, model: Path, data: Path, folder: Path):
    core = load_policy(config, str(model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = load_rows(
        data,
        Renderer(tokenizer),
        method="dpo",
        max_length=500,
        mask_observations=config.mask_observations,
    )
    trainer = build(config, core, tokenizer, rows, folder)
    move(core)
    core.train()
    ((batch,),) = (item["batches"] for item in trainer.get_train_dataloader())
    order = batch["rows"].argsort()
    loss, outputs = trainer.compute_loss(core, batch, return_outputs=True)
    loss.backward()
    logps = outputs["logps"].detach()
    return (
        float(loss.detach()),
        logps[batch["chosen"]][order],
        logps[batch["rejected"]][order],
        gradients(core),
    )


def theirs(
    config: TrainConfig, model: Path, data: Path, folder: Path, weights: dict, loss: str = "sigmoid"
):
    core = transformers.AutoModelForCausalLM.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    transformers.set_seed(config.seed)
    reference = None
    if config.tune == "lora":
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        core = get_peft_model(core, lora)
        own = core.state_dict()
        assert own.keys() == weights.keys()
        core.load_state_dict(weights)
    else:
        reference = transformers.AutoModelForCausalLM.from_pretrained(model)
    trainer = DPOTrainer(
        model=core,
        ref_model=reference,
        processing_class=tokenizer,
        args=DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            beta=config.beta,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            max_length=500,
            use_cpu=True,
            loss_type=[loss, "sft"],
            loss_weights=[1.0, config.sft_weight],
            label_smoothing=config.label_smoothing,
            disable_tqdm=True,
        ),
        train_dataset=load_dataset("json", data_files=str(data), split="train", cache_dir=str(folder)),
    )
    move(core)
    core.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        # the sum over a completion's tokens, as their trainer defines a sequence's log-probability
        out = core(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        scored = torch.log_softmax(out[:, :-1].float(), -1).gather(-1, batch["input_ids"][:, 1:, None])
        seen["logps"] = (scored.squeeze(-1) * batch["completion_mask"][:, 1:]).sum(1)
    loss = trainer.compute_loss(core, batch)
    loss.backward()
    chosen, rejected = seen["logps"].chunk(2)
    metrics = trainer._metrics["train"]
    assert metrics["logps/chosen"][-1] == pytest.approx(float(chosen.mean()), rel=CLOSE)
    return float(loss.detach()), chosen, rejected, gradients(core)


def starting_weights(config: TrainConfig, model: Path) -> dict:
    transformers.set_seed(config.seed)
    return load_policy(config, str(model)).state_dict()


def agree(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


CASES = [
    pytest.param("full", False, True, 0.0, id="full weights, single turn"),
    pytest.param("full", True, False, 0.5, id="full weights, observations trained, SFT term"),
    pytest.param("lora", False, True, 0.5, id="LoRA, single turn, SFT term"),
    pytest.param("lora", True, False, 0.0, id="LoRA, observations trained"),
]


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.parametrize(("tune", "observations", "masked", "sft_weight"), CASES)
def test_loss_log_probabilities_and_gradients_agree_with_trl(
    tmp_path, tune, observations, masked, sft_weight, record_property
):
    model = model_folder(tmp_path / "model")
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(p) + "\n" for p in pairs(observations=observations)))
    config = TrainConfig(
        tune=tune,
        lora=Lora(r=4, alpha=8) if tune == "lora" else Lora(),
        beta=BETA,
        sft_weight=sft_weight,
        batch_size=4,
        mask_observations=masked,
        dtype="float32",
    )
    weights = starting_weights(config, model)
    transformers.set_seed(config.seed)
    loss, chosen, rejected, grads = ours(config, model, data, tmp_path / "ours")
    their_loss, their_chosen, their_rejected, their_grads = theirs(
        config, model, data, tmp_path / "theirs", weights
    )
    assert loss == pytest.approx(their_loss, rel=CLOSE)
    assert agree(chosen, their_chosen) < CLOSE
    assert agree(rejected, their_rejected) < CLOSE
    assert grads.keys() == their_grads.keys()
    scale = max(float(g.abs().max()) for g in their_grads.values())
    worst = max(float((grads[n] - g).abs().max()) for n, g in their_grads.items()) / scale
    record_property("loss", abs(loss / their_loss - 1))
    record_property("logps", max(agree(chosen, their_chosen), agree(rejected, their_rejected)))
    record_property("gradients", worst)
    assert worst < CLOSE
    assert loss != pytest.approx(0.6931, abs=1e-2), "margins are away from zero, so the test can fail"


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.parametrize(
    ("loss", "theirs_is", "settings"),
    [
        ("hinge", "hinge", {}),
        ("robust", "robust", {"label_smoothing": 0.2}),
        ("ipo", "ipo", {"length_normalised": True}),
        ("sigmoid", "sigmoid_norm", {"length_normalised": True}),
    ],
)
def test_every_loss_agrees_with_trl(tmp_path, loss, theirs_is, settings):
    model = model_folder(tmp_path / "model")
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(p) + "\n" for p in pairs(observations=False)))
    config = TrainConfig(tune="full", loss=loss, beta=BETA, batch_size=4, dtype="float32", **settings)
    found, _, _, gradients_found = ours(config, model, data, tmp_path / "ours")
    expected, _, _, gradients_expected = theirs(config, model, data, tmp_path / "theirs", {}, theirs_is)
    assert found == pytest.approx(expected, rel=CLOSE)
    scale = max(float(g.abs().max()) for g in gradients_expected.values())
    assert scale > 0, "or nothing would be compared"
    for name, gradient in gradients_expected.items():
        assert float((gradients_found[name] - gradient).abs().max()) < CLOSE * scale, name


def test_masking_observations_changes_the_loss_only_where_there_are_observations(tmp_path):
    model = model_folder(tmp_path / "model")
    found = {}
    for observations in (False, True):
        data = tmp_path / f"pairs{observations}.jsonl"
        data.write_text("".join(json.dumps(p) + "\n" for p in pairs(observations=observations)))
        for masked in (True, False):
            config = TrainConfig(tune="full", batch_size=4, mask_observations=masked, beta=BETA)
            folder = tmp_path / f"{observations}{masked}"
            found[observations, masked] = ours(config, model, data, folder)[0]
    assert found[False, True] == pytest.approx(found[False, False], rel=1e-6)
    assert found[True, True] != pytest.approx(found[True, False], rel=1e-3)
