"""Edges as a graph that other programs open: lists of nodes and edges, and GraphML."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from topk_ortho.inspect.atlas.measure import Atlas

NEURONPEDIA = "https://www.neuronpedia.org"
_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES = {str: "string", int: "long", float: "double"}


def as_graph(found: Atlas, *, neuronpedia: str = "") -> dict[str, Any]:
    """Returns `nodes`, features with their rate, and `edges`, from parent to child.

    Args:
        found: the atlas.
        neuronpedia: model and SAE as that site names them, such as `gpt2-small/6-res-jb`; nodes
            then have an `url`.
    """
    nodes: dict[int, dict[str, Any]] = {}
    for edge in found.edges:
        for feature, rate in ((edge.parent, edge.rate_parent), (edge.child, edge.rate_child)):
            nodes[feature] = {"id": feature, "rate": rate}
            if neuronpedia:
                nodes[feature]["url"] = f"{NEURONPEDIA}/{neuronpedia}/{feature}"
    edges = []
    for edge in found.edges:
        evidence = {k: v for k, v in asdict(edge).items() if k not in ("parent", "child")}
        edges.append({"source": edge.parent, "target": edge.child, **evidence})
    return {
        "experimental": True,
        "directed": True,
        "sae": found.sae["path"],
        "nodes": [nodes[feature] for feature in sorted(nodes)],
        "edges": edges,
    }


def as_graphml(graph: dict[str, Any]) -> bytes:
    """Returns a graph of `as_graph` as a GraphML document; what is None is left out."""
    root = ElementTree.Element("graphml", {"xmlns": _NAMESPACE})
    body = ElementTree.Element("graph", {"id": "atlas", "edgedefault": "directed"})
    for kind in ("node", "edge"):
        items = graph[f"{kind}s"]
        for name, value_type in _columns(items).items():
            key = {"id": f"{kind}.{name}", "for": kind, "attr.name": name, "attr.type": value_type}
            ElementTree.SubElement(root, "key", key)
        for at, item in enumerate(items):
            element = ElementTree.SubElement(body, kind, _place(kind, item, at))
            for name, value in item.items():
                if name not in _STRUCTURE and value is not None:
                    data = ElementTree.SubElement(element, "data", {"key": f"{kind}.{name}"})
                    data.text = str(value)
    root.append(body)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


_STRUCTURE = {"id", "source", "target"}


def _columns(items: list[dict[str, Any]]) -> dict[str, str]:
    """The attributes of nodes or edges, and GraphML's types of them."""
    found: dict[str, str] = {}
    for item in items:
        for name, value in item.items():
            if name not in _STRUCTURE and value is not None:
                found.setdefault(name, _TYPES[type(value)])
    return found


def _place(kind: str, item: dict[str, Any], at: int) -> dict[str, str]:
    if kind == "node":
        return {"id": str(item["id"])}
    return {"id": f"e{at}", "source": str(item["source"]), "target": str(item["target"])}
