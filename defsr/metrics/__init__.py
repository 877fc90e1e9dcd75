"""Numbers to report, beside BasicSR's own metrics."""
