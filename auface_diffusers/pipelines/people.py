"""Who is drawn, and what chance decides: everything a face depends on besides its expression.

A face has one generator, from which three numbers are drawn first, given or not: who, which scene, and the seed of the
tokens' noise. So naming an identity changes neither scene nor noise, and no face depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from auface_diffusers.anatomy import Appearance, resolve_attributes
from auface_diffusers.anatomy.identity import identity_codes
from auface_diffusers.anatomy.people import Attributes
from auface_diffusers.pipelines.expressions import Expression

Identity = int | Sequence[int] | Tensor | None
Wish = Attributes | Sequence[Attributes | None] | None
Generators = torch.Generator | Sequence[torch.Generator] | None
SEEDS = 2**31
"""Drawn seeds lie below it."""


@dataclass(frozen=True)
class Draws:
    """What a face's generator decides: seeds of a person, of a scene, and of the tokens' noise."""

    person: int
    scene: int
    noise: int


@dataclass(frozen=True)
class Faces:
    """B faces to draw.

    Attributes:
        expressions: B of them. negatives: B to keep away from, or none.
        codes: (B, 46). appearances: B. pose: (B, 3) and gaze: (B, 2) in degrees.
        noise: B seeds.
        unknown: sources that are not known of any face, and left out.
    """

    expressions: tuple[Expression, ...]
    negatives: tuple[Expression, ...]
    codes: Tensor
    appearances: tuple[Appearance, ...]
    pose: Tensor
    gaze: Tensor
    noise: tuple[int, ...]
    unknown: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.expressions)

    def attributes(self) -> list[dict[str, Any]]:
        """Mappings that `resolve_attributes` makes the same appearance, pose and gaze of."""
        turns = zip(self.appearances, self.pose.tolist(), self.gaze.tolist(), strict=True)
        return [{**look.to_dict(), "head_pose": pose, "gaze": gaze} for look, pose, gaze in turns]

    def part(self, begin: int, end: int) -> Faces:
        """Some of them."""
        return replace(self, **{name: x[begin:end] for name, x in vars(self).items() if name != "unknown"})


def face_draws(generator: Generators, seed: int | Sequence[int] | None, count: int) -> list[Draws]:
    """What chance decides for each face, drawn from one generator for all or one each; None takes torch's.

    Args:
        generator: one or ``count``.
        seed: one or ``count`` integers, in place of generators.
        count: of faces.

    Raises:
        ValueError: both are given, or not as many as faces; or a seed is no integer.
    """
    if generator is not None and seed is not None:
        raise ValueError("generator and seed are both given: give one")
    if seed is not None and not _whole(seed):
        raise ValueError(f"seed {seed!r}: give an integer, or a list with one a face")
    if isinstance(seed, int):
        generator = torch.Generator().manual_seed(seed)
    elif seed is not None:
        generator = [torch.Generator().manual_seed(one) for one in seed]
    if generator is None or isinstance(generator, torch.Generator):
        each = [generator] * count
    else:
        each = list(generator)
    if len(each) != count:
        raise ValueError(f"{len(each)} generators or seeds for {count} faces: give one, or one a face")
    return [_draws(one) for one in each]


def _whole(seed: object) -> bool:
    """Whether it is an integer, or a list of some."""
    many = seed if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
    return all(isinstance(one, int) and not isinstance(one, bool) for one in many)


def _draws(generator: torch.Generator | None) -> Draws:
    device = "cpu" if generator is None else generator.device
    person, scene, noise = torch.randint(SEEDS, (3,), generator=generator, device=device).tolist()
    return Draws(person, scene, noise)


def identity_count(identity: Identity) -> int:
    """How many people an identity names; 0 for None.

    Raises:
        ValueError: something that is no identity.
    """
    if identity is None:
        return 0
    if isinstance(identity, bool) or not isinstance(identity, int | Sequence | Tensor) or isinstance(identity, str):
        raise ValueError(f"identity {identity!r}: give a seed, a list of seeds, or codes (B, 46)")
    if isinstance(identity, Sequence) and not all(type(one) is int for one in identity):
        raise ValueError(f"identity {identity!r}: a list holds integer seeds; stack codes to a tensor (B, 46)")
    return len(identity_codes(identity))


def attribute_list(attributes: Wish) -> list[Attributes | None]:
    """Attributes as a list: one for all people, or one each."""
    if attributes is None or not isinstance(attributes, Sequence) or isinstance(attributes, str):
        return [attributes]  # resolve_attributes says what is wrong with a text
    return list(attributes)


def prepare_faces(
    expressions: Sequence[Expression],
    negatives: Sequence[Expression],
    identity: Identity,
    attributes: Wish,
    draws: Sequence[Draws],
    per_prompt: int,
) -> Faces:
    """Bring everything to one a face. What has length 1 is used for all; ``draws`` says how many there are.

    Args:
        expressions: B or 1. negatives: B, 1 or none.
        identity: seeds or codes; None takes the persons that ``draws`` has.
        attributes: see ``anatomy.resolve_attributes``.
        draws: B * ``per_prompt``.
        per_prompt: faces an expression, which come one after the other.

    Raises:
        ValueError: for attributes or codes that are not allowed.
    """
    count = len(draws)
    rows = [row // per_prompt for row in range(count)]
    wishes = attribute_list(attributes)
    if identity is None:
        codes = identity_codes([one.person for one in draws])
    else:
        codes = identity_codes(identity).float().cpu()
        codes = codes[[row % len(codes) for row in rows]]
    people = [
        resolve_attributes(codes[place : place + 1], wishes[rows[place] % len(wishes)], draws[place].scene)
        for place in range(count)
    ]
    return Faces(
        expressions=tuple(expressions[row % len(expressions)] for row in rows),
        negatives=tuple(negatives[row % len(negatives)] for row in rows) if negatives else (),
        codes=torch.cat([one.codes for one in people]),
        appearances=tuple(one.appearances[0] for one in people),
        pose=torch.cat([one.pose for one in people]),
        gaze=torch.cat([one.gaze for one in people]),
        noise=tuple(one.noise for one in draws),
    )
