"""The authors' networks at published sizes with random weights, as `backbones.py` measures them beside ours.

Chronos comes from its own package; the others from `sktime` (its copies of the authors' code) and `timesfm`, which are
the extra "parity". Where a reference cannot say its own loss on current libraries, the same loss stands here, written
on its outputs. Nothing here is compared but time: tests/parity compares numbers.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of `context` [B, T] and `target` [B, H]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A network of somebody else's, and how it is asked."""

    package: str
    network: nn.Module
    forward: Callable[[Tensor], Tensor]
    """Forecast of the horizon after `context` [B, T]."""
    loss: Loss | None
    """Its training loss; None where its code cannot train here."""
    narrower: Mapping[str, Loss] = field(default_factory=dict)
    """Losses that leave some of what ours trains without a gradient, by what they do train: timed as well."""


class AbsentReference(Exception):
    """There is none, or not here; the message says why."""


def reference(implementation: str, config: Mapping[str, Any], *, horizon: int) -> Reference:
    """The authors' network beside our class `implementation` at `config`; raises `AbsentReference`."""
    if implementation in NONE:
        raise AbsentReference(NONE[implementation])
    if implementation not in BUILDERS:
        raise AbsentReference("not compared")
    torch.manual_seed(0)
    return BUILDERS[implementation](config, horizon)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise AbsentReference(f"{name.split('.')[0]} is not installed (extra parity)") from error


def _standardised(context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, deviation = context.mean(1, keepdim=True), context.std(1, keepdim=True) + 1e-5
    return (context - mean) / deviation, mean, deviation


def _pinball(said: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """`said` [..., Q, H], `target` [..., H]."""
    error = target[..., None, :] - said
    return torch.maximum(levels[:, None] * error, (levels[:, None] - 1) * error).mean()


def _ttm(config: Mapping[str, Any], horizon: int) -> Reference:
    theirs = _module("sktime.libs.granite_ttm")
    fixed = {"patch_stride": config["patch_length"], "gated_attn": True, "scaling": "std", "use_decoder": True}
    settings = {**config, **fixed}
    network = theirs.TinyTimeMixerForPrediction(theirs.TinyTimeMixerConfig(**settings))

    def ask(context: Tensor, target: Tensor | None = None) -> Any:
        return network(past_values=context[..., None], future_values=None if target is None else target[..., None])

    return Reference(
        package="granite-tsfm (sktime)",
        network=network,
        forward=lambda context: ask(context).prediction_outputs,
        loss=lambda context, target: ask(context, target).loss,
    )


def _timer(config: Mapping[str, Any], horizon: int) -> Reference:
    """Its own `labels=` fails on current transformers (backbones.md §1): the mean square over every token instead."""
    theirs = _module("sktime.libs.timer.modeling_timer")
    settings = _module("sktime.libs.timer.configuration_timer").TimerConfig
    patch = config["input_token_len"]
    network = theirs.TimerForPrediction(settings(**{**config, "output_token_lens": [patch]}))

    def loss(context: Tensor, target: Tensor) -> Tensor:
        z, mean, deviation = _standardised(context)
        hidden = network.model(input_ids=z, use_cache=False, return_dict=True).last_hidden_state
        labels = torch.cat([z[:, patch:], (target - mean) / deviation], dim=1)
        said = network.lm_heads[0](hidden).flatten(1)
        return F.mse_loss(said, labels[:, : said.shape[1]])

    return Reference(
        package="timer-base-84m (sktime)",
        network=network,
        forward=lambda context: network(input_ids=context, use_cache=False, return_dict=True, revin=True).logits,
        loss=loss,
    )


def _sundial(config: Mapping[str, Any], horizon: int) -> Reference:
    """Its `revin=` fails with more than one sample (backbones.md §1): standardised here."""
    theirs = _module("sktime.libs.sundial")
    longest = config["prediction_length"]
    network = theirs.SundialForPrediction(theirs.SundialConfig(**{**config, "output_token_lens": [longest]}))
    samples = config.get("num_samples", 20)

    def forward(context: Tensor) -> Tensor:
        z, mean, deviation = _standardised(context)
        said = network(input_ids=z, use_cache=False, return_dict=True, num_samples=samples, max_output_length=longest)
        return said.logits * deviation[..., None] + mean[..., None]

    def loss(context: Tensor, target: Tensor) -> Tensor:
        """Of the last token, as ours: the others stand before a horizon of which the context holds the most."""
        z, mean, deviation = _standardised(context)
        hidden = network.model(input_ids=z, use_cache=False, return_dict=True).last_hidden_state[:, -1]
        future = F.pad((target - mean) / deviation, (0, longest - target.shape[1]))
        known = F.pad(torch.ones_like(target), (0, longest - target.shape[1]))
        repeats = config.get("diffusion_batch_mul", 4)
        rows = (t.repeat(repeats, 1) for t in (future, hidden, known))
        future, hidden, known = rows
        return network.flow_loss(future, hidden, mask_y=known)

    return Reference(package="sundial-base-128m (sktime)", network=network, forward=forward, loss=loss)


def _moment(config: Mapping[str, Any], horizon: int) -> Reference:
    theirs = _module("sktime.libs.momentfm.models.moment")
    utilities = _module("sktime.libs.momentfm.utils.utils")
    transformers = _module("transformers")

    class Network(theirs.MOMENT):  # type: ignore[misc, name-defined]
        """Its own constructor asks the hub for sizes."""

        def _get_transformer_backbone(self, _: Any) -> nn.Module:
            sizes = {name: config[name] for name in ("d_model", "d_ff", "d_kv", "num_heads", "num_layers")}
            t5 = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.1)
            return transformers.T5EncoderModel(t5).get_encoder()

    context = config.get("context_length", 512)
    settings = utilities.NamespaceWithDefaults(
        task_name="forecasting",
        forecast_horizon=horizon,
        seq_len=context,
        patch_len=config.get("patch_length", 8),
        patch_stride_len=config.get("patch_length", 8),
        d_model=config["d_model"],
        transformer_backbone="google/flan-t5-small",
        transformer_type="encoder_only",
        freeze_embedder=False,
        freeze_encoder=False,
    )
    network = Network(settings)

    def forward(x: Tensor) -> Tensor:
        said: Tensor = network(x_enc=x[:, None], input_mask=torch.ones_like(x)).forecast[:, 0]
        return said

    return Reference(
        package="momentfm (sktime)",
        network=network,
        forward=forward,
        loss=lambda x, target: F.mse_loss(forward(x), target),
    )


def _moirai2(config: Mapping[str, Any], horizon: int) -> Reference:
    theirs = _module("sktime.libs.uni2ts.moirai2_module")
    network = theirs.Moirai2Module(**{name: v for name, v in config.items() if name != "quantile_levels"})
    patch, ahead = config["patch_size"], config["num_predict_token"]
    levels = torch.arange(1, 10) / 10

    def said(x: Tensor, *, training: bool) -> Any:
        tokens = x.reshape(len(x), -1, patch)
        place = torch.arange(tokens.shape[1]).expand(tokens.shape[:2])
        ones = torch.ones_like(place)
        nothing = torch.zeros_like(place, dtype=torch.bool)
        return network(tokens, torch.ones_like(tokens).bool(), ones, place, ones - 1, nothing, training_mode=training)

    def loss(context: Tensor, target: Tensor) -> Tensor:
        out, scaled = said(torch.cat([context, target], dim=1), training=True)
        future = scaled[:, 1:].flatten(1).unfold(1, ahead * patch, patch)
        out = out[:, : future.shape[1]].unflatten(-1, (ahead, 9, patch)).transpose(2, 3).flatten(-2)
        return _pinball(out, future, levels)

    return Reference(
        package="uni2ts (sktime)",
        network=network,
        forward=lambda context: said(context, training=False)[:, -1],
        loss=loss,
    )


def _moirai1(config: Mapping[str, Any], horizon: int) -> Reference:
    """Patches of 32 steps, 100 samples. Its density raises here (backbones.md §1): the same one from its components."""
    theirs = _module("sktime.libs.uni2ts.moirai_module")
    families = ("student_t.StudentT", "normal.NormalFixedScale", "negative_binomial.NegativeBinomial")
    components = [_distribution(name) for name in (*families, "log_normal.LogNormal")]
    fixed = {"distr_output": _module("sktime.libs.uni2ts.distribution.mixture").MixtureOutput(components)}
    settings = {"max_seq_len": 512, "attn_dropout_p": 0.0, "dropout_p": 0.0, **config, **fixed}
    settings.pop("patch_size", None)
    network = theirs.MoiraiModule(**{**settings, "patch_sizes": tuple(config["patch_sizes"])})
    patch, widest = 32, max(config["patch_sizes"])

    def ask(context: Tensor, target: Tensor) -> Any:
        x = torch.cat([context, target], dim=1)
        tokens = F.pad(x.reshape(len(x), -1, patch), (0, widest - patch))
        known = F.pad(torch.ones((*tokens.shape[:2], patch)), (0, widest - patch)).bool()
        place = torch.arange(tokens.shape[1]).expand(tokens.shape[:2])
        ones, ahead = torch.ones_like(place), place >= context.shape[1] // patch
        return network(tokens, known, ones, place, ones - 1, ahead, patch * ones), tokens

    def loss(context: Tensor, target: Tensor) -> Tensor:
        said, tokens = ask(context, target)
        mixture, z = said.base_dist, (tokens - said.loc) / said.scale
        parts = []
        for one in mixture.components:
            fits = one.support.check(z)
            parts.append(torch.where(fits, one.log_prob(torch.where(fits, z, 0.5)), -torch.inf))
        density = (mixture.weights.logits + torch.stack(parts, dim=-1)).logsumexp(-1) - said.scale.log()
        return -density[:, context.shape[1] // patch :, :patch].mean()

    return Reference(
        package="uni2ts (sktime)",
        network=network,
        forward=lambda x: ask(x, torch.zeros(len(x), horizon))[0].sample(torch.Size((100,))),
        loss=loss,
    )


def _distribution(name: str) -> Any:
    module, _, family = name.partition(".")
    return getattr(_module(f"sktime.libs.uni2ts.distribution.{module}"), f"{family}Output")()


def _timesfm(config: Mapping[str, Any], horizon: int) -> Reference:
    """The published size only, which is all that its class knows; it draws every norm as 0, here they are 1.

    The package has no loss. That of the class in `transformers`, by which Google's own example fine-tunes, trains both
    heads, and so does the one here: mean and deciles of what every patch says, and the deciles of the second head where
    the target begins. It costs what the network's `forward` makes of it: the second head speaks at every patch.
    """
    theirs = _module("timesfm.timesfm_2p5.timesfm_2p5_torch")
    network = theirs.TimesFM_2p5_200M_torch_module()
    if (config["hidden_size"], config["num_hidden_layers"]) != (network.md, network.x):
        raise AbsentReference("its class knows the published size alone")
    for name, parameter in network.named_parameters():
        if name.endswith("_ln.scale"):
            nn.init.ones_(parameter)
    levels = torch.arange(1, 10) / 10

    def said(context: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, o, 10] of the first head, [B, 1024, 10] of the second, [B, N, o] what came."""
        z, _, _ = _standardised(torch.cat([context, target], dim=1))
        tokens = z[:, : context.shape[1]].reshape(len(z), -1, network.p)
        (_, _, near, far), _ = network(tokens, torch.zeros_like(tokens, dtype=torch.bool))
        near = near.unflatten(-1, (network.o, network.q))
        future = F.pad(z[:, network.p :], (0, network.o)).unfold(1, network.o, network.p)[:, : near.shape[1]]
        return near, far[:, -1].unflatten(-1, (network.os, network.q)), future

    def first_head(context: Tensor, target: Tensor) -> Tensor:
        near, _, future = said(context, target)
        return _pinball(near[..., 1:].transpose(-1, -2), future, levels)

    def both_heads(context: Tensor, target: Tensor) -> Tensor:
        near, far, future = said(context, target)
        steps, middle = target.shape[1], slice(network.aridx, network.aridx + 1)
        last, far = near[:, -1, :steps], far[:, :steps]
        deciles = far[..., 1:] + (last - far)[..., middle]
        every = F.mse_loss(near[..., 0], future) + _pinball(near[..., 1:].transpose(-1, -2), future, levels)
        return every + _pinball(deciles.transpose(-1, -2), future[:, -1, :steps], levels)

    return Reference(
        package="timesfm",
        network=network,
        forward=lambda context: network.decode(horizon, context, torch.zeros_like(context, dtype=torch.bool))[0],
        loss=both_heads,
        narrower={"its first head alone": first_head},
    )


def _bolt(config: Mapping[str, Any], horizon: int) -> Reference:
    ours = importlib.import_module("tsfm.backbones.chronos_bolt")
    network = ours.ChronosBoltModelForForecasting(ours.BoltConfig.parse(config).package())
    return Reference(
        package="chronos-forecasting",
        network=network,
        forward=lambda context: network(context).quantile_preds,
        loss=lambda context, target: network(context, target=target.clone()).loss,
    )


def _chronos2(config: Mapping[str, Any], horizon: int) -> Reference:
    ours = importlib.import_module("tsfm.backbones.chronos_2")
    settings = ours.Chronos2Config.parse(config)
    network = ours.Chronos2Model(settings.package())
    patches = -(-horizon // network.chronos_config.output_patch_size)

    def ask(context: Tensor, target: Tensor | None = None) -> Any:
        return network(context, future_target=target, num_output_patches=patches)

    return Reference(
        package="chronos-forecasting",
        network=network,
        forward=lambda context: ask(context).quantile_preds,
        loss=lambda context, target: ask(context, target.clone()).loss,
    )


def _t5(config: Mapping[str, Any], horizon: int) -> Reference:
    """Its pipeline: twenty paths, drawn by `transformers`."""
    ours, theirs = importlib.import_module("tsfm.backbones.chronos_t5"), importlib.import_module("chronos.chronos")
    sizes = ours.T5Sizes.parse(config)
    settings = theirs.ChronosConfig(
        tokenizer_class="MeanScaleUniformBins",
        tokenizer_kwargs={"low_limit": sizes.low_limit, "high_limit": sizes.high_limit},
        context_length=sizes.context_length,
        prediction_length=sizes.prediction_length,
        n_tokens=sizes.n_tokens,
        n_special_tokens=ours.SPECIAL,
        pad_token_id=ours.PAD,
        eos_token_id=ours.EOS,
        use_eos_token=True,
        model_type="seq2seq",
        num_samples=sizes.num_samples,
        temperature=sizes.temperature,
        top_k=sizes.top_k,
        top_p=1.0,
    )
    network, tokens = ours.T5ForConditionalGeneration(sizes.package()), settings.create_tokenizer()
    network.config.use_cache = network.generation_config.use_cache = True
    pipeline = theirs.ChronosPipeline(tokens, theirs.ChronosModel(settings, network))

    def loss(context: Tensor, target: Tensor) -> Tensor:
        ids, seen, scale = tokens.context_input_transform(context)
        full = F.pad(target, (0, sizes.prediction_length - target.shape[1]))
        labels, _ = tokens.label_input_transform(full, scale)
        said: Tensor = network(input_ids=ids, attention_mask=seen, labels=labels).loss
        return said

    return Reference(
        package="chronos-forecasting",
        network=network,
        forward=lambda context: pipeline.predict(context, prediction_length=horizon),
        loss=loss,
    )


BUILDERS: dict[str, Callable[[Mapping[str, Any], int], Reference]] = {
    "ttm:TTM": _ttm,
    "timer:Timer": _timer,
    "sundial:Sundial": _sundial,
    "moment:MOMENT": _moment,
    "moirai2:Moirai2": _moirai2,
    "moirai1:Moirai1": _moirai1,
    "timesfm:TimesFM": _timesfm,
    "chronos_bolt:ChronosBolt": _bolt,
    "chronos_2:Chronos2": _chronos2,
    "chronos_t5:ChronosT5": _t5,
}
"""By `BackboneSpec.implementation`."""
NONE = {
    "tiny:Tiny": "our own network",
    "units:UniTS": "its code is on GitHub only",
    "timer_v1:TimerV1": "its code is on GitHub only",
}
