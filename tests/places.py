"""Every place in a value of lists and dictionaries, for tests that put something wrong there."""

import copy


def copy_and_places(value):
    """A deep copy of a value as JSON holds it, and its places (container, index or key)."""
    value, places = copy.deepcopy(value), []

    def visit(part):
        if not isinstance(part, (dict, list)):
            return
        for key in list(part) if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            visit(part[key])

    visit(value)
    return value, places
