"""Reads /metrics as Prometheus does, and prints every sample as JSON: [name, labels, value]."""

import json
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

with urllib.request.urlopen(sys.argv[2], timeout=30) as answer:
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.headers
    text = answer.read().decode()
families = list(text_string_to_metric_families(text))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family is there twice"
assert all(family.type != "unknown" for family in families), [family.name for family in families if family.type == "unknown"]
print(json.dumps([[sample.name, sample.labels, sample.value] for family in families for sample in family.samples]))
