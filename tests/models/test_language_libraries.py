"""Language models of other people's code, as published, from token ids; small, random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain as jxp

pytestmark = pytest.mark.slow

IDS, RESPONSE = jnp.array([3, 1, 7, 4]), jnp.array([2, 9])
IMAGE, WAVE = (jax.random.normal(jax.random.key(0), shape) for shape in [(3, 8, 8), (8, 20)])
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def pretrained(name, config, **options):
    """One of transformers' Flax classes, at a scale of weights that lets its layers matter."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"Flax{name}"):
        pytest.skip("Flax classes of transformers is not installed: 5.0 dropped them")
    configured = getattr(transformers, f"{config}Config")(**options)
    model = getattr(transformers, f"Flax{name}")(configured)
    params = jax.tree.map(lambda p: 10 * p if p.ndim > 1 else p, model.params)
    logits = lambda y: y.logits
    return lambda **keywords: jxp.flax.function(model, params, output=logits, **keywords)


def tunix(module, name, **options):
    """One of google-tunix's modules, which take positions and a mask beside the ids."""
    library = pytest.importorskip(f"tunix.models.{module}.model")
    sizes = dict(num_layers=2, embed_dim=16, hidden_dim=24, num_heads=2, head_dim=8, num_kv_heads=1)
    config = library.ModelConfig(**sizes, **options)
    model = getattr(library, name)(config, rngs=nnx.Rngs(0))

    def causal(model, ids):
        n = ids.shape[1]
        return model(ids, jnp.arange(n)[None], None, jnp.tril(jnp.ones((1, n, n), bool)))[0]

    return lambda: jxp.flax.function(model, method=causal)


def deepmind():
    gm = pytest.importorskip("gemma.gm")
    sizes = dict(num_embed=50, embed_dim=16, hidden_dim=24, num_heads=2, head_dim=8, num_kv_heads=1)
    kinds = [gm.nn.AttentionType.LOCAL_SLIDING, gm.nn.AttentionType.GLOBAL]
    config = gm.nn.config.TransformerConfig(
        **sizes, final_logit_softcap=30.0, use_post_attn_norm=True, use_post_ffw_norm=True,
        use_qk_norm=True, attention_types=kinds, sliding_window_size=3,
    )  # fmt: skip
    model = gm.nn.Transformer(config=config, dtype=jnp.float32)
    variables = model.init(jax.random.key(0), IDS[None])
    return lambda: jxp.flax.function(model, variables, output=lambda y: y.logits)


ROPE = dict(vocab_size=50, rope_theta=10_000, norm_eps=1e-6)
CAUSAL = {
    "transformers' GPT-2": lambda: pretrained(
        "GPT2LMHeadModel", "GPT2", vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2
    ),
    "transformers' Llama": lambda: pretrained("LlamaForCausalLM", "Llama", vocab_size=50, **SIZES),
    "transformers' Gemma": lambda: pretrained(
        "GemmaForCausalLM", "Gemma", vocab_size=50, num_key_value_heads=1, head_dim=8,
        hidden_activation="gelu_pytorch_tanh", **SIZES,
    ),
    "tunix's Llama 3": lambda: tunix("llama3", "Llama3", **ROPE),
    "tunix's Qwen 3": lambda: tunix("qwen3", "Qwen3", **ROPE),
    "tunix's Gemma 3": lambda: tunix(
        "gemma3", "Gemma3", num_embed=50, sliding_window_size=3, param_dtype=jnp.float32
    ),
    "gemma's Transformer": deepmind,
}  # fmt: skip


@pytest.mark.parametrize("name", CAUSAL)
def test_a_response_is_explained_from_its_ids(name, record_property):
    f = CAUSAL[name]()()
    result = jax.jit(lambda p, r: jxp.lm.explain(jxp.deeplift, f, p, r))(IDS, RESPONSE)
    gaps = jnp.abs(result.rise - result.scores.sum(1))
    assert jnp.abs(result.scores).sum(1).min() > 1e-3
    worst = float((gaps / jnp.abs(result.scores).sum(1)).max())
    record_property("gap of a language model", worst)
    assert worst < 1e-4 and not result.scores[0, 4:].any()


OTHERS = {
    "BERT": ("BertForSequenceClassification", "Bert", IDS, dict(vocab_size=50, **SIZES), {}),
    "ViT": (
        "ViTForImageClassification", "ViT", IMAGE, dict(image_size=8, patch_size=4, **SIZES), {},
    ),
    "Whisper": (
        "WhisperForConditionalGeneration", "Whisper", WAVE,
        dict(vocab_size=50, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
             encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
             decoder_ffn_dim=24, max_source_positions=10, max_target_positions=16, pad_token_id=0,
             bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None,
             begin_suppress_tokens=None),
        dict(decoder_input_ids=jnp.array([[1, 5, 6]])),
    ),
    "T5": (
        "T5ForConditionalGeneration", "T5", IDS,
        dict(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
             decoder_start_token_id=0, pad_token_id=0),
        dict(decoder_input_ids=jnp.array([[0, 5, 6]])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_classifiers_and_encoders_with_decoders(name, record_property, monkeypatch):
    if name == "T5":  # transformers 4.57 gives `jnp.clip` a keyword that JAX 0.10 has dropped
        clip = jnp.clip
        monkeypatch.setattr(jnp, "clip", lambda x, a_min=None, a_max=None: clip(x, a_min, a_max))
    model, config, x, options, keywords = OTHERS[name]
    f = jxp.logit(pretrained(model, config, **options)(**keywords), (-1, 3) if keywords else 1)
    e, g = jxp.embedded(f)(x) if jnp.issubdtype(x.dtype, jnp.integer) else (x, f)
    scores = jax.jit(lambda e, e0: jxp.deeplift(g, e0)(e))(e, jax.tree.map(jnp.zeros_like, e))
    np.testing.assert_allclose(g(e), f(x), rtol=1e-4)
    leaves = jax.tree.leaves(scores)
    size = float(sum(jnp.abs(c).sum() for c in leaves))
    gap = g(e) - g(jax.tree.map(jnp.zeros_like, e)) - sum(c.sum() for c in leaves)
    record_property("gap of a language model", abs(float(gap)) / size)
    assert size > 1e-3 and abs(gap) < 1e-4 * size
