"""vLLM's side of sampling.py, run by the Python of an environment with vllm: loads once, then samples when told.

Needs nothing but vllm. The first argument is a JSON file: model folder, dtype, prompts as token ids, rollouts per
prompt, tokens per answer, seed. It answers on stdout in lines that begin with `MARK`: first its version and settings,
then, for every line on stdin, the seconds and tokens of one batch. A warm-up on other prompts comes first.
"""

import json
import sys
import time
from pathlib import Path

MARK = "VLLM "


def main() -> None:
    """Serve batches until stdin ends."""
    import vllm
    from vllm import LLM, SamplingParams

    job = json.loads(Path(sys.argv[1]).read_text())
    longest = max(map(len, job["prompts"])) + job["tokens"]
    rows = len(job["prompts"]) * job["rollouts"]
    model = LLM(
        model=job["model"],
        dtype=job["dtype"],
        enable_prefix_caching=True,
        max_model_len=longest + 16,
        max_num_seqs=rows,
        seed=job["seed"],
    )
    # exactly as many tokens as the others sample at most
    parameters = SamplingParams(
        n=job["rollouts"],
        temperature=1.0,
        max_tokens=job["tokens"],
        ignore_eos=True,
        detokenize=False,
        logprobs=0,
        seed=None,
    )

    def sample(prompts: list[list[int]]) -> tuple[float, int]:
        model.reset_prefix_cache()
        start = time.perf_counter()
        outputs = model.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)
        seconds = time.perf_counter() - start
        return seconds, sum(len(answer.token_ids) for output in outputs for answer in output.outputs)

    sample([ids[::-1] for ids in job["prompts"]])
    facts = {"version": vllm.__version__, "prefix caching": True, "sampled with": "n=G, free tokens, log-probabilities"}
    print(MARK + json.dumps(facts), flush=True)
    for _ in sys.stdin:
        seconds, tokens = sample(job["prompts"])
        print(MARK + json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
