"""The plan as it lies on disk, believed only if this home signed it. Needs no database."""

import msgspec

from modelyard.contract.errors import InvalidInput
from modelyard.contract.home import Home
from modelyard.contract.plan import ServingPlan, SignedPlan
from modelyard.secure.signing import verifier


def read_plan(home: Home) -> ServingPlan | None:
    """The plan on disk; None if there is none. Raises InvalidInput if it is damaged or not signed by this home."""
    try:
        data = home.plan.read_bytes()
    except FileNotFoundError:
        return None
    try:
        signed = msgspec.json.decode(data, type=SignedPlan)
        if not verifier(home.keys).accepts(bytes(signed.plan), signed.signature):
            raise InvalidInput("the plan on disk is not signed by this home's key")
        return msgspec.json.decode(signed.plan, type=ServingPlan)
    except (msgspec.MsgspecError, FileNotFoundError):
        raise InvalidInput("the plan on disk cannot be read") from None
