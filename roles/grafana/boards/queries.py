"""What Prometheus is asked, of a few kinds."""


def of(metric: str, chosen: str = "") -> str:
    """Return the series of a metric, those whose labels are as `chosen` says."""
    return f"{metric}{{{chosen}}}" if chosen else metric


def rate(metric: str, chosen: str = "") -> str:
    """Return how much a counter grows in a second, over what Grafana takes for a good while."""
    return f"rate({of(metric, chosen)}[$__rate_interval])"


def growth(metric: str, chosen: str = "", within: str = "$__rate_interval") -> str:
    """Return by how much a counter grew."""
    return f"increase({of(metric, chosen)}[{within}])"


def total(by: str, expression: str) -> str:
    """Return the sum for each combination of the labels `by`; of all where that is empty."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def most(by: str, expression: str) -> str:
    """Return the largest for each combination of the labels `by`."""
    return f"max by ({by}) ({expression})"


def least(by: str, expression: str) -> str:
    """Return the smallest for each combination of the labels `by`."""
    return f"min by ({by}) ({expression})"


def quantile(share: float, histogram: str, by: str = "", chosen: str = "") -> str:
    """Return what a `share` of the observations of a histogram is below, for each combination of the labels `by`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {total(labels, rate(f'{histogram}_bucket', chosen))})"


def medians(histogram: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the queries of the median and of the 95th percentile, with their names."""
    return (quantile(0.5, histogram), "p50"), (quantile(0.95, histogram), "p95")
