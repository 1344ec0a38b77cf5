"""Names in docstrings as links: those of this library to its pages, those of torch to torch's documentation."""

from __future__ import annotations

from docutils import nodes

TORCH = "https://docs.pytorch.org/docs/stable/generated/{}.html"


def resolve(app, env, node, contnode):
    """`node` names something that Sphinx does not find in its own module."""
    target = node.get("reftarget", "")
    if target.startswith("torch."):
        return nodes.reference("", "", contnode, internal=False, refuri=TORCH.format(target))
    domain = env.get_domain("py")
    for full in (f"fused_losses.functional.{target}", f"fused_losses.{target}"):
        if full in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], full, node, contnode)
    return None


def setup(app):
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
