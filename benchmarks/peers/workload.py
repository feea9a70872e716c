"""The same model and the same measurements as the Rust side, for PyTorch."""

import json
import resource
import statistics
import sys
import time

ROWS = 8
VOCAB = 8192
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
HALF_BILLION = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}


def model_config(shape=SMALL):
    from transformers import Qwen2Config

    return Qwen2Config(
        **shape, tie_word_embeddings=True, max_position_embeddings=2048, use_sliding_window=False
    )


def model(shape=SMALL):
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(model_config(shape)).float()


def ids(row, length):
    return [(row * 7919 + t * 104_729) % VOCAB for t in range(length)]


def measured(work, runs, tokens):
    """One run to warm up, then `runs` timed ones."""
    work()
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return figures(seconds, before, after, tokens)


def figures(seconds, before, after, tokens):
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": statistics.median(seconds),
        "cpu_seconds": cpu / len(seconds),
        "tokens_per_second": tokens / statistics.median(seconds),
        "peak_memory_bytes": after.ru_maxrss * 1024,
        "runs": sorted(seconds),
    }


def main(phases):
    """`python FILE PHASE THREADS RUNS`: prints one phase's figures, the last line of standard output."""
    import torch

    phase, threads, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    print(json.dumps(phases[phase](runs)))
