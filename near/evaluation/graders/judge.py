"""A judge decides whether an answer agrees with its reference; every verdict is saved as soon as it arrives."""

import contextlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from near.common.bounds import Text
from near.common.files import cache_folder, digest, write_json
from near.common.locks import locked
from near.evaluation.graders.base import Answer, Grade, Grader
from near.models.chat_judge import PROMPT, Judge
from near.models.server import ServerOptions


class JudgeGrader(Grader):
    """1 if the judge behind an OpenAI-compatible endpoint (`server`, see near/models/chat_judge.py) says yes, else 0;
    its reply is Grade.detail. A blank answer is wrong without a request.

    Verdicts are cached by model, prompt, question, reference and answer in <cache>/verdicts/<model and prompt>/, also
    if a later request fails.

    Raises:
        UserError: the judge is unreachable, or says neither yes nor no.
    """

    def __init__(self, server: ServerOptions, prompt: Text = PROMPT):
        self.judge = Judge(server, prompt, "evaluation.graders.judge")

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        folder = cache_folder(cache_dir, "verdicts", digest([self.judge.model, self.judge.prompt]))
        if not (folder / "judge.json").is_file():
            write_json(folder / "judge.json", {"model": self.judge.model, "prompt": self.judge.prompt})
        cases = [(a.question, a.reference, a.text.strip()) for a in answers if a.text.strip()]
        verdicts = Verdicts(folder / "verdicts.jsonl")
        missing = list(dict.fromkeys(case for case in cases if digest(case) not in verdicts.known))
        with ThreadPoolExecutor(self.judge.server.concurrency) as workers:
            waiting, fault = {workers.submit(self.judge.verdict, case): case for case in missing}, None
            for done in as_completed(waiting):
                if done.cancelled():
                    continue
                if done.exception() is None:
                    verdicts.add(digest(waiting[done]), *done.result())
                elif fault is None:
                    fault = done.exception()
                    for other in waiting:
                        other.cancel()  # requests in progress are finished and saved
            if fault is not None:
                raise fault
        grades = iter([Grade(float(right), reply) for right, reply in (verdicts.known[digest(case)] for case in cases)])
        return [next(grades) if answer.text.strip() else Grade(0.0, no_answer=True) for answer in answers]


class Verdicts:
    """A file with one verdict a line. Several processes may append; a line that a killed process left incomplete is
    skipped."""

    def __init__(self, path: Path):
        self.path, self.known = path, {}
        for line in path.read_bytes().split(b"\n") if path.is_file() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                reply = entry["reply" if "reply" in entry else "said"]  # "said": written by earlier versions
                self.known[entry["key"]] = (bool(entry["right"]), str(reply))

    def add(self, key: str, right: bool, reply: str) -> None:
        line = json.dumps({"key": key, "right": right, "reply": reply}).encode() + b"\n"
        with locked(self.path.with_name("lock")), open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # an incomplete line
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.known[key] = (right, reply)
