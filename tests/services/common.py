"""Everything together: the services, and the roots that images are made of."""

from __future__ import annotations

from tests.services.apache import APACHE
from tests.services.build import BUILD
from tests.services.cron import CRON
from tests.services.memcached import MEMCACHED
from tests.services.nginx import NGINX
from tests.services.postgres import POSTGRES
from tests.services.pyapp import PYAPP
from tests.services.recipe import Recipe, root_of
from tests.services.redis import REDIS

LOAD = Recipe("load", ('CMD ["true"]',))
# What every run of the tests goes through, and what scripts/soak takes its time for.
BASIC = (NGINX, REDIS, POSTGRES)
SERVICES = (NGINX, REDIS, POSTGRES, APACHE, MEMCACHED, CRON, BUILD, PYAPP)
BASIC_RECIPES = (*(service.recipe for service in BASIC), LOAD)
BASE_ROOT = root_of(BASIC, ("curl", "wrk"), "services")
SOAK_ROOT = root_of(
    SERVICES, ("apache2-utils", "bsdutils", "curl", "libmemcached-tools", "wrk"), "soak"
)
