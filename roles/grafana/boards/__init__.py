"""Grafana's dashboards, as they are written into `roles/grafana/files/dashboards` by `python -m boards`."""
