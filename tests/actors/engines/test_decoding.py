"""The attention and the KV cache of the transformers engine, against those of transformers."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from actors.engines.decoding import GROUPED, RoomyLayer, grouped_attention, roomy_cache

CONFIG = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_hand(query, key, value, mask, scaling):
    """Attention of each row and query head on its own."""
    rows, heads, new, _ = query.shape
    output = torch.empty(rows, new, heads, value.shape[-1])
    for row in range(rows):
        for head in range(heads):
            group = head // (heads // key.shape[1])
            scores = query[row, head] @ key[row, group].T * scaling
            scores = scores.masked_fill(~mask[row, 0], float("-inf"))
            output[row, :, head] = scores.softmax(-1) @ value[row, group]
    return output


@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 4), (3, 1)])
@pytest.mark.parametrize("new", [1, 3])
def test_grouped_attention(heads, groups, new):
    query, key, value = drawn(2, heads, new, 8), drawn(2, groups, 5, 8), drawn(2, groups, 5, 8)
    mask = torch.ones(2, 1, new, 5, dtype=torch.bool).tril(5 - new)
    mask[1, :, :, :2] = False  # the padding of a shorter prompt
    module = SimpleNamespace(num_key_value_groups=heads // groups)
    found, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, by_hand(query, key, value, mask, 0.3))


def test_a_layer_with_room_holds_the_same_states():
    roomy, plain = RoomyLayer(3), DynamicLayer()
    both = (roomy, plain)

    def append(rows, tokens):
        keys, values = drawn(rows, 2, tokens, 4), drawn(rows, 2, tokens, 4) + 1
        found, expected = (layer.update(keys, values) for layer in both)
        assert all(map(torch.equal, found, expected))
        assert roomy.get_seq_length() == plain.get_seq_length()

    append(2, 4)
    for layer in both:
        layer.batch_repeat_interleave(3)
    append(6, 1)
    append(6, 2)
    append(6, 1)  # more than the room
    for layer in both:
        layer.batch_select_indices(torch.tensor([4, 0]))
    append(2, 1)
    append(2, 1)


def test_new_tokens_do_not_change_what_the_caller_got_before():
    layer = RoomyLayer(4)
    layer.update(drawn(1, 1, 2, 4), drawn(1, 1, 2, 4))
    before, _ = layer.update(drawn(1, 1, 1, 4), drawn(1, 1, 1, 4))
    copy = before.clone()
    layer.update(drawn(1, 1, 2, 4), drawn(1, 1, 2, 4))
    assert torch.equal(before, copy)


def test_layers_with_a_window_stay_as_they_are():
    kinds = [type(layer) for layer in roomy_cache(Qwen2Config(**CONFIG), 4).layers]
    assert kinds == [RoomyLayer, RoomyLayer]
    some = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    config = Qwen2Config(**CONFIG, **some, use_sliding_window=True)
    kinds = [type(layer) for layer in roomy_cache(config, 4).layers]
    assert kinds == [DynamicSlidingWindowLayer, RoomyLayer]


def test_a_model_decodes_as_with_transformers_own():
    """Two rows, the second with padding; two more tokens one after the other."""
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**CONFIG)).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [0, 0, 11, 12, 13, 14]])
    mask = torch.ones_like(ids)
    mask[1, :2] = 0

    def decode(implementation, cache):
        model.set_attn_implementation(implementation)
        logits, at = [], slice(0, 4)
        for end in (4, 5, 6):
            with torch.inference_mode():
                out = model(ids[:, at], attention_mask=mask[:, :end], past_key_values=cache)
            logits.append(out.logits[:, -1])
            at = slice(end, end + 1)
        return torch.stack(logits)

    expected = decode("eager", DynamicCache(config=model.config))
    found = decode(GROUPED, roomy_cache(model.config, 4))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
