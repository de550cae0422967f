"""Training-free caches across sampling steps, through diffusers' own implementations."""

from methods.caching.fastercache import FasterCache
from methods.caching.fbcache import FBCache
from methods.caching.magcache import MagCache
from methods.caching.pab import PAB
from methods.caching.taylorseer import TaylorSeer

__all__ = ["PAB", "FBCache", "FasterCache", "MagCache", "TaylorSeer"]
