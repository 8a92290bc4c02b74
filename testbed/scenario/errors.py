"""The one error for input that a user can mend."""


class InputError(Exception):
    """Bad input: names the field, the value and what was expected; the command ends with 2."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field} = {value!r}: expected {expected}")


class RunError(Exception):
    """A run that began and could not go on; what was measured is kept. Status 1."""
