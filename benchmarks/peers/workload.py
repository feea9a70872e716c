"""The same models and the same measurements as the Rust side, for PyTorch."""

import argparse
import json
import resource
import statistics
import time

VOCAB = 8192
SHAPES = {
    "small": {
        "vocab_size": VOCAB,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}


def model(args):
    """Random weights, f32 unless `--dtype bf16` says otherwise."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[args.shape], max_position_embeddings=2048, use_sliding_window=False)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    torch.set_default_dtype(dtype)  # so that a large model is never there in f32
    with torch.device(args.device):
        made = Qwen2ForCausalLM(config).to(dtype)
    torch.set_default_dtype(torch.float32)
    return made


def ids(row, length):
    return [(row * 7919 + t * 104_729) % VOCAB for t in range(length)]


def measured(args, work, tokens):
    """One run to warm up, then those that are timed."""

    def done():
        work()
        if args.device == "cuda":
            import torch

            torch.cuda.synchronize()

    done()
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = []
    for _ in range(args.runs):
        start = time.perf_counter()
        done()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return figures(args, seconds, before, after, tokens)


def figures(args, seconds, before, after, tokens):
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    device_memory = None
    if args.device == "cuda":
        import torch

        device_memory = torch.cuda.max_memory_reserved()
    return {
        "seconds": statistics.median(seconds),
        "cpu_seconds": cpu / len(seconds),
        "tokens_per_second": tokens / statistics.median(seconds),
        "peak_memory_bytes": after.ru_maxrss * 1024,
        "device_memory_bytes": device_memory,
        "runs": sorted(seconds),
    }


def main(phases):
    """Prints the figures of the work that the command line names, PHASE:ROWSxTOKENS each, as the last line."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--work", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {}
    for work in args.work:
        phase, size = work.split(":")
        rows, tokens = map(int, size.split("x"))
        if args.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        found[work] = phases[phase](args, rows, tokens)
    print(json.dumps(found))
