"""Tests of the settings that all processes must have in common."""

from configs import base
from lift_jax.settings.common import MAY_DIFFER, common_settings
from lift_jax.settings.parse import to_dict
from lift_jax.settings.schema import all_entries


def test_every_setting_is_compared_but_those_that_may_differ():
    compared = common_settings(to_dict(base.get_config()))
    assert compared.keys() == all_entries().keys() - set(MAY_DIFFER)
    assert set(MAY_DIFFER) <= all_entries().keys()
    assert compared["seed"] == "0" and compared["tuner.name"] == '"adaptformer"'
