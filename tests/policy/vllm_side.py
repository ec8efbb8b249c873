"""What the Python with vllm runs for test_vllm_agrees.py: the jobs of a JSON file, one after the other, on one engine.

Arguments: model folder, file of jobs, file for the answers.
"""

import json
import sys
from pathlib import Path

from flexrec.policy.models import load_policy
from flexrec.policy.settings import GenerationSettings
from flexrec.policy.vllm_engines import start_vllm
from flexrec.policy.vllm_sampler import read_grammar, write_grammar


def main(model_folder: Path, jobs_file: Path, answers_file: Path) -> None:
    from transformers import AutoTokenizer

    jobs = json.loads(jobs_file.read_text())
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    sampler = start_vllm(model_folder, GenerationSettings.model_validate(jobs["settings"]))
    answers = []
    for job in jobs["jobs"]:
        if "refresh" in job:
            sampler.refresh(load_policy(model_folder, Path(job["refresh"])))
            continue
        grammar = read_grammar(job["grammar"], tokenizer)
        assert write_grammar(grammar) == job["grammar"]
        rollouts = sampler.sample(
            job["prompts"], grammar, rollouts=job["rollouts"], temperature=job["temperature"], seed=job["seed"]
        )
        answers.append({"completions": rollouts.completions, "log_probabilities": rollouts.log_probabilities})
    answers_file.write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
