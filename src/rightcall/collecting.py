"""Who makes chains and puts them into files: a model in this process, or workers elsewhere (see
`rightcall.cluster`). To everybody else it is the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rightcall.chain import Chain, ChainStore, Problem
from rightcall.conduct.counterfactual import Probe, probed
from rightcall.models import ChatModel
from rightcall.rollout import Enough, Setting, collect


class Collector(ABC):
    """Makes chains of one model under whatever setting it is asked for."""

    name: str
    """Of the model."""
    used: str = ""
    """See `ChatModel.used`."""

    @abstractmethod
    def collect(
        self,
        setting: Setting,
        problems: Sequence[Problem],
        samples: int,
        path: str | Path,
        on_chain: Callable[[Chain], None] | None = None,
        *,
        enough: Enough | None = None,
    ) -> ChainStore:
        """See `collect`."""

    @abstractmethod
    def probe(
        self,
        setting: Setting,
        probes: Mapping[str, Probe],
        path: str | Path,
        on_chain: Callable[[Chain], None] | None = None,
    ) -> list[Chain]:
        """See `rightcall.conduct.counterfactual.probed`."""


class InProcess(Collector):
    """An open model. `before` is done with each file before it is gone on with."""

    def __init__(
        self, model: ChatModel, before: Callable[[str | Path], None] = lambda path: None
    ) -> None:
        self._model = model
        self._before = before
        self.name = model.name

    @property
    def used(self) -> str:  # type: ignore[override]  # asked, not set
        return self._model.used

    def collect(
        self,
        setting: Setting,
        problems: Sequence[Problem],
        samples: int,
        path: str | Path,
        on_chain: Callable[[Chain], None] | None = None,
        *,
        enough: Enough | None = None,
    ) -> ChainStore:
        self._before(path)
        return collect(setting, self._model, problems, samples, path, on_chain, enough=enough)

    def probe(
        self,
        setting: Setting,
        probes: Mapping[str, Probe],
        path: str | Path,
        on_chain: Callable[[Chain], None] | None = None,
    ) -> list[Chain]:
        self._before(path)
        return probed(setting, self._model, probes, path, on_chain)
