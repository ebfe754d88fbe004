"""A frozen LM beside the policy, for `reward.reference`."""

from __future__ import annotations

from typing import Any

from minirec.config.model import ModelConfig
from minirec.corpus.prompts import ANSWER
from minirec.errors import ConfigError
from minirec.model.hub import check_reference
from minirec.model.recommender import Policy, load_policy

PROBE = f"1. Wireless mouse, 2.4 GHz\n2. Crème brûlée set (6 pieces)\nThe user 's next: {ANSWER}"
"""A text that tokenizers with the same words but other rules would cut differently."""


def load_reference(
    folder: str, config: ModelConfig, tokenizer: Any, *, device: Any = "cpu"
) -> Policy:
    """The LM of a folder in ``config.dtype``, which reads the tokens of the policy's `tokenizer`.

    Raises:
        ConfigError: there is no LM in the folder, or its tokenizer is another one.
    """
    from transformers import AutoTokenizer

    check_reference(folder)
    own = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    same = own.get_vocab() == tokenizer.get_vocab()
    if not same or own.encode(PROBE) != tokenizer.encode(PROBE):
        raise ConfigError(
            f"reward.reference {folder} has another tokenizer than model.name, so that it cannot "
            f"read the tokens of the policy; give an LM of the same family, or base"
        )
    return load_policy(folder, config, tokenizer, device=device)
