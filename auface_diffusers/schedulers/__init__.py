"""Schedulers: the order in which masked image tokens are revealed."""

from auface_diffusers.schedulers.masked_tokens import SCHEDULES, MaskedTokenScheduler, MaskedTokenSchedulerOutput

__all__ = ["SCHEDULES", "MaskedTokenScheduler", "MaskedTokenSchedulerOutput"]
