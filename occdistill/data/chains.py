"""A scene's keyframes as the tables chain them.

Only the standard library: the doctor follows the same chains where no package is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def follow(
    scene: Mapping[str, Any], samples: Mapping[str, Mapping], taken: dict[str, str]
) -> tuple[list[str], str | None]:
    """The tokens of a scene's keyframes in order, as far as its chain can be trusted.

    Args:
        scene: its record: name, token, first_sample_token, nbr_samples.
        samples: records of sample.json by token: next, scene_token.
        taken: which scene has each token so far, by the scene's name; the scene's own are added.

    Returns:
        The tokens, and what is wrong with the chain, or None: it runs in a circle, runs on into
        another scene, names a keyframe that isn't there, or has not `nbr_samples` members.
    """
    name, token = str(scene.get("name")), scene.get("first_sample_token")
    tokens: list[str] = []
    while token:
        problem = _problem(scene, samples, taken, name, token)
        if problem:
            return tokens, problem
        taken[token] = name
        tokens.append(token)
        token = samples[token].get("next")
    count = scene.get("nbr_samples", len(tokens))
    if count != len(tokens):
        return tokens, f"lists {count} keyframes, but its chain in sample.json has {len(tokens)}"
    return tokens, None


def _problem(
    scene: Mapping, samples: Mapping[str, Mapping], taken: Mapping[str, str], name: str, token: Any
) -> str | None:
    if not isinstance(token, str) or token not in samples:
        return f"chains a keyframe {token!r} that sample.json doesn't have"
    if token in taken:
        if taken[token] == name:
            return f"has a chain that comes back to keyframe {token}"
        return f"has a chain that runs on into keyframe {token} of scene {taken[token]}"
    if samples[token].get("scene_token", scene.get("token")) != scene.get("token"):
        return f"has a chain that runs on into keyframe {token} of another scene"
    return None
