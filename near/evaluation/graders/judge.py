"""A judge decides whether an answer says what its reference does; every verdict is kept the moment it comes."""

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
    """1 where the judge behind an OpenAI-compatible endpoint (`server`, see near/models/chat_judge.py) says yes, else
    0; its reply is told. A blank answer is wrong without asking.

    UserError where it is away or says neither yes nor no; verdicts that came are kept and not asked for again, by
    model, prompt, question, reference and answer: <cache>/verdicts/<model and prompt>/.
    """

    def __init__(self, server: ServerOptions, prompt: Text = PROMPT):
        self.judge = Judge(server, prompt, "evaluation.graders.judge")

    def grade(self, answers: Sequence[Answer], cache_dir: str) -> list[Grade]:
        folder = cache_folder(cache_dir, "verdicts", digest([self.judge.model, self.judge.prompt]))
        if not (folder / "judge.json").is_file():
            write_json(folder / "judge.json", {"model": self.judge.model, "prompt": self.judge.prompt})
        asked = [(a.question, a.reference, a.text.strip()) for a in answers if a.text.strip()]
        kept = Verdicts(folder / "verdicts.jsonl")
        missing = list(dict.fromkeys(one for one in asked if digest(one) not in kept.known))
        with ThreadPoolExecutor(self.judge.server.concurrency) as workers:
            waiting, fault = {workers.submit(self.judge.verdict, one): one for one in missing}, None
            for done in as_completed(waiting):
                if done.cancelled():
                    continue
                if done.exception() is None:
                    kept.add(digest(waiting[done]), *done.result())
                elif fault is None:
                    fault = done.exception()
                    for other in waiting:
                        other.cancel()  # those under way end, and are kept
            if fault is not None:
                raise fault
        grades = iter([Grade(float(right), said) for right, said in (kept.known[digest(one)] for one in asked)])
        return [next(grades) if answer.text.strip() else Grade(0.0, no_answer=True) for answer in answers]


class Verdicts:
    """A file of one verdict a line, which several processes may add to; what a killed one left of a line is passed
    over."""

    def __init__(self, path: Path):
        self.path, self.known = path, {}
        for line in path.read_bytes().split(b"\n") if path.is_file() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = json.loads(line)
                self.known[told["key"]] = (bool(told["right"]), str(told["said"]))

    def add(self, key: str, right: bool, said: str) -> None:
        line = json.dumps({"key": key, "right": right, "said": said}).encode() + b"\n"
        with locked(self.path.with_name("lock")), open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that was cut short
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.known[key] = (right, said)
