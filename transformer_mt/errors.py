"""The two kinds of expected failure. Anything else that escapes is a bug and keeps its traceback."""

# Of a message. What is longer quotes something long: its middle is left out, and what to do stands at the end.
_MAX_CHARACTERS, _MAX_BEGINNING, _MAX_END = 2000, 1500, 450

# What PyTorch and processes of ours say: the allocators of the CPU, of CUDA and of cuBLAS, and sizes beyond any memory.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "Cannot allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Storage size calculation overflowed",
    "std::bad_alloc",
    "MemoryError",
)


def printable(text: str) -> str:
    """Return a text with the codes of characters that a terminal would act upon, line ends too, or cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
    )


class TmtError(Exception):
    """An expected failure: its message is one line that says what, where, found what, and what to do."""

    exit_status = 1

    def __str__(self) -> str:
        """One line of bounded length, whatever names and values of others the message quotes."""
        line = printable(super().__str__())
        return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_BEGINNING]} … {line[-_MAX_END:]}"


class InputError(TmtError):
    """Wrong usage, configuration or input (exit status 2)."""

    exit_status = 2


class RunError(TmtError):
    """Correct input, but the work failed while running: full disk, loss not finite (exit status 1)."""

    exit_status = 1
