"""Settings of the item loss: its candidates, drawn lists, and an expert."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from minirec.config.choices import ItemCandidates
from minirec.config.section import PathText, Section


class ItemLossSettings(Section):
    """How the policy learns to rank items."""

    item_candidates: ItemCandidates = "batch"
    """Items with which the item loss compares the target."""
    item_negatives: int | None = Field(0, ge=0)
    """Random other items that join the targets of a step as candidates, with gradient; null takes
    all items."""
    item_refresh_steps: PositiveInt | Literal["auto"] = "auto"
    """Steps between updates of the item vectors for the ranking of rollouts; auto takes as many as
    keep their encoding at a quarter of the cost of a step, but at most checkpoint_steps."""
    item_loss: Literal["softmax", "plackett_luce", "pairs"] = "softmax"
    """softmax raises the target's probability; plackett_luce and pairs draw lists of the candidates
    and raise the better ones, in groups without any spread of rewards too."""
    rankings: int = Field(8, ge=2)
    """Lists that are drawn for each prompt; has no effect with item_loss softmax."""
    ranking_depth: int = Field(10, ge=1)
    """Places of a drawn list; a target beyond them earns nothing."""
    ranking_temperature: float = Field(0.1, gt=0)
    """Temperature of the scores from which lists are drawn; a higher one spreads them more."""
    expert: Literal["none", "cooccurrence", "titles", "shortcut", "table"] = "none"
    """Who shows further items that the policy should score highly: a recommender that is counted
    from other users (cooccurrence, shortcut) or from titles, or a table of your own; none: nobody.
    """
    expert_table: PathText | None = None
    """Parquet file for expert table, with the columns sample_id, item (both as in the corpus of the
    run) and probability; a sample without a row has no expert."""
    expert_items: int = Field(4, ge=1)
    """Number of the expert's best items of each sample; has no effect without an expert."""
    expert_weight: float = Field(0.5, gt=0)
    """Weight of the expert's items in the loss; lr_schedule decreases it like the learning rate.
    It has no effect without an expert."""
    expert_alpha: float = Field(0.25, ge=0, le=1)
    """Whom the loss follows: 1 follows the expert where it ranks the target well, 0 where the
    policy is far from it. It has no effect without an expert."""

    @property
    def refresh_steps(self) -> int:
        """Steps between updates of the item vectors, as far as the settings fix them."""
        return 1 if self.item_refresh_steps == "auto" else self.item_refresh_steps

    @model_validator(mode="after")
    def _check_item_loss(self) -> ItemLossSettings:
        refresh = self.refresh_steps
        if self.item_candidates == "catalogue" and refresh > 1:
            raise ValueError(
                f"item_candidates catalogue compares new vectors of targets with vectors of other "
                f"items that are up to {refresh - 1} steps older; set "
                f"item_refresh_steps to 1 or item_candidates to batch"
            )
        if self.item_negatives != 0 and self.item_candidates != "batch":
            raise ValueError(
                f"item_negatives {_shown(self.item_negatives)} joins the targets of a step, but "
                f"item_candidates {self.item_candidates} does not count with other items; set "
                f"item_candidates to batch or item_negatives to 0"
            )
        if self.item_loss != "softmax" and self.item_candidates == "catalogue":
            raise ValueError(
                f"item_loss {self.item_loss} draws lists of {self.ranking_depth} candidates, of "
                f"which hardly any holds the target with item_candidates catalogue; set "
                f"item_candidates to batch"
            )
        if self.item_loss == "pairs" and self.rankings % 2:
            raise ValueError(
                f"item_loss pairs compares lists in pairs, but rankings {self.rankings} is odd; "
                f"set rankings to {self.rankings + 1}"
            )
        self._check_expert()
        return self

    def _check_expert(self) -> None:
        """Raise ValueError for an expert that the other settings give no place."""
        if (self.expert == "table") != (self.expert_table is not None):
            found = "needs the file" if self.expert == "table" else "does not read the file"
            raise ValueError(
                f"expert {self.expert} {found} of expert_table; set expert to table and "
                f"expert_table to a Parquet file, or expert_table to null"
            )
        if self.expert != "none" and self.item_candidates == "corrected":
            raise ValueError(
                f"expert {self.expert} adds items to the candidates, but item_candidates corrected "
                f"does not count with other items; set item_candidates to batch"
            )


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
