"""What Argos Translate gives of a package that `tmt export --format argos` wrote, beside what `tmt translate` gives.

Usage, in an environment where `pip install argostranslate` has been run (it needs none of ours):

    python .../scripts/check_argos.py PACKAGE.argosmodel SOURCE.txt EXPECTED.txt [float32|int8|auto]

EXPECTED.txt is what `tmt translate MODEL --beam-size 4 --length-penalty 0.2 --set search.length_penalty_form=power
--set search.stop=beam_finished --set search.min_tokens=1` gives of SOURCE.txt, whose lines are one sentence each: Argos
Translate's settings are fixed. The last word is its ARGOS_COMPUTE_TYPE, whose default there is auto: on most processors
int8. The exit status is 1 where a line differs.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn


def main(package: str, source: str, expected: str, compute_type: str = "float32") -> int:
    with tempfile.TemporaryDirectory() as home:
        # Nothing of the user's, and nothing left there.
        os.environ |= dict.fromkeys(("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home)
        os.environ["ARGOS_COMPUTE_TYPE"] = compute_type
        socket.socket.connect = refuse  # type: ignore[method-assign]
        from argostranslate.package import install_from_path
        from argostranslate.translate import get_installed_languages

        install_from_path(Path(package))
        src, tgt = get_installed_languages()
        translation = src.get_translation(tgt)
        sources, ours = (
            Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n") for path in (source, expected)
        )
        found = [translation.translate(line) for line in sources]
        paragraphs = translation.translate("\n".join([" ".join(sources[:3]), "", *sources[3:6]]))
    assert paragraphs == "\n".join([" ".join(found[:3]), "", *found[3:6]]), paragraphs
    different = [i for i, (text, other) in enumerate(zip(found, ours, strict=True)) if text != other]
    for i in different[:5]:
        print(f"{i + 1}: {found[i]}\n{' ' * len(str(i + 1))}  {ours[i]}")
    print(f"Argos Translate, {compute_type}: {len(different)} of {len(found)} lines differ")
    return int(bool(different))


def refuse(*arguments: object) -> NoReturn:
    raise OSError("no network: a package must do without one")


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
