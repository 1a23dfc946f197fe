"""The metrics of a registry, in the text format of Prometheus.

All numbers are counted by the parts that they describe. They are handed to prometheus_client only
when they are asked for, and it is imported then.

Source: manual/metrics.md, "All metrics".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from plexus_registry import __version__
from plexus_registry.rules.backend import Source, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from plexus_registry.measures import Histogram, Requests
    from plexus_registry.registry import Registry
    from plexus_registry.rpc.fairness import Fairness
    from plexus_registry.server.connection import Watchers
    from plexus_registry.server.heartbeat import Heartbeat
    from plexus_registry.server.listener import ConnectionLimits

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "plexus_registry"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Metrics:
    """The parts of one registry that count."""

    registry: Registry
    connection_limits: ConnectionLimits
    fairness: Fairness
    heartbeat: Heartbeat
    refused: Counter[str]
    requests: Requests
    watchers: Watchers

    def encode(self) -> str:
        """Encode all metrics, those of the process too."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return generate_latest(registry).decode()

    def collect(self) -> Iterable[Metric]:
        """Collect the registry's own metrics, for prometheus_client."""
        registry = self.registry
        commits, config, probe = registry.commits, registry.config, registry.probe
        backends = Counter(
            (each.state.value, each.source.value) for each in registry.list(active_only=False)
        )
        yield _gauges(
            "build_info", "The version of the registry.", ("version",), {(__version__,): 1}
        )
        yield _gauges(
            "backends",
            "Backends, inactive ones too.",
            ("state", "source"),
            {(s.value, o.value): backends[s.value, o.value] for s in State for o in Source},
        )
        yield _counters("changes", "Changes since the start.", ("type", "origin"), registry.changes)
        yield _histograms("commit_seconds", "How long commits took.", (), {(): commits.seconds})
        yield _histograms(
            "commit_group_size", "How many changes a commit had.", (), {(): commits.group_sizes}
        )
        yield _gauge(
            "storage_failing", "1 while changes cannot be saved.", commits.failure is not None
        )
        yield _counters(
            "requests",
            "JSON-RPC requests; the outcome is ok, or the word of the error.",
            ("method", "outcome"),
            self.requests.outcomes,
        )
        yield _histograms(
            "request_seconds",
            "How long requests took, from the decoded request to the answer.",
            ("method",),
            {(method,): each for method, each in self.requests.seconds.items()},
        )
        yield _gauge("connections", "Open connections.", self.connection_limits.count)
        yield _counters("refused", "Refusals, by the limit or check.", ("reason",), self.refused)
        revisions = self.watchers.revisions()
        yield _gauge("watchers", "Watches.", len(revisions))
        yield _gauge(
            "watch_lag_revisions",
            "How many revisions the slowest watch is behind.",
            registry.catalog.revision - min(revisions, default=registry.catalog.revision),
        )
        yield _gauge(
            "unread_bytes", "Long answers that are not sent yet, in memory.", self.fairness.unread
        )
        yield _counters("probes", "Probes of backends.", ("outcome",), probe.outcomes)
        yield _histograms("probe_seconds", "How long probes took.", (), {(): probe.seconds})
        yield _gauge(
            "network_suspect",
            "1 while most backends fail at once, and none is made inactive for it.",
            registry.health.suspects_network,
        )
        yield _gauge(
            "config_last_reload_success",
            "1 unless the config file is invalid.",
            config.error is None,
        )
        yield _gauge(
            "config_last_reload_timestamp_seconds",
            "When the config file was last read and valid; 0 if there was none yet.",
            config.loaded_at or 0,
        )
        yield _histograms(
            "event_loop_lag_seconds",
            "How late the event loop ran a task, measured once a second.",
            (),
            {(): self.heartbeat.lag},
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return _gauges(name, text, (), {(): value})


def _gauges(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counters(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Mapping[str, int] | Mapping[tuple[str, str], int],
) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric([key] if isinstance(key, str) else key, value)
    return family


def _histograms(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
    for key, histogram in values.items():
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = [*zip(bounds, map(float, accumulate(histogram.counts)), strict=True)]
        family.add_metric(key, buckets, histogram.total)
    return family
