"""Sampling with llama.cpp (llama-cpp-python): weights of random numbers in a GGUF file, all rows in one batch."""

import ctypes
import pathlib
import tempfile

import gguf
import llama_cpp as llama
import numpy as np

from workload import SHAPES, ids, main, measured

PROMPT = 32


def write(path, args):
    """A model of the shape asked for, whose matrices are of the type asked for."""
    shape = SHAPES[args.shape]
    width, ff, heads, kv = (
        shape[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    head = width // heads
    file = gguf.GGUFWriter(path, "qwen2")
    file.add_tokenizer_model("none")
    file.add_vocab_size(shape["vocab_size"])
    file.add_context_length(2048)
    file.add_embedding_length(width)
    file.add_block_count(shape["num_hidden_layers"])
    file.add_feed_forward_length(ff)
    file.add_head_count(heads)
    file.add_head_count_kv(kv)
    file.add_rope_freq_base(1e6)
    file.add_layer_norm_rms_eps(1e-6)
    random = np.random.default_rng(0)

    def matrix(name, rows, columns):
        numbers = random.standard_normal((rows, columns), np.float32) * np.float32(0.02)
        if args.dtype == "bf16":
            kind = gguf.GGMLQuantizationType.BF16
            file.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            file.add_tensor(name, numbers)

    matrix("token_embd.weight", shape["vocab_size"], width)
    if not shape["tie_word_embeddings"]:
        matrix("output.weight", shape["vocab_size"], width)
    file.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for block in range(shape["num_hidden_layers"]):
        name = f"blk.{block}."
        for norm in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"{name}{norm}.weight", np.ones(width, np.float32))
        for part, rows in (("attn_q", width), ("attn_k", kv * head), ("attn_v", kv * head)):
            matrix(f"{name}{part}.weight", rows, width)
            file.add_tensor(f"{name}{part}.bias", np.zeros(rows, np.float32))
        matrix(f"{name}attn_output.weight", width, width)
        matrix(f"{name}ffn_gate.weight", ff, width)
        matrix(f"{name}ffn_up.weight", ff, width)
        matrix(f"{name}ffn_down.weight", width, ff)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def generation(args, rows, tokens):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        write(path, args)
        settings = llama.llama_model_default_params()
        settings.use_mmap = False
        model = llama.llama_model_load_from_file(str(path).encode(), settings)
    assert model, "llama.cpp loads the model"

    options = llama.llama_context_default_params()
    options.n_ctx = rows * (PROMPT + tokens)
    options.n_batch = options.n_ubatch = rows * PROMPT
    options.n_seq_max = rows
    options.n_threads = options.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, options)
    assert context, "llama.cpp makes a context"
    sampler = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    llama.llama_sampler_chain_add(sampler, llama.llama_sampler_init_temp(1.0))
    llama.llama_sampler_chain_add(sampler, llama.llama_sampler_init_dist(0))
    batch = llama.llama_batch_init(rows * PROMPT, 0, 1)

    def decode(wanted):
        """Decodes (row, place, token) and returns a sample for each row's last token."""
        batch.n_tokens = len(wanted)
        last = {row: at for at, (row, _, _) in enumerate(wanted)}
        for at, (row, place, token) in enumerate(wanted):
            batch.token[at], batch.pos[at] = token, place
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
            batch.logits[at] = last[row] == at
        assert llama.llama_decode(context, batch) == 0, "llama.cpp decodes"
        return [llama.llama_sampler_sample(sampler, context, last[row]) for row in range(rows)]

    def sample():
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        wanted = [(row, place, token) for row in range(rows) for place, token in enumerate(ids(row, PROMPT))]
        for place in range(PROMPT, PROMPT + tokens):
            wanted = [(row, place, token) for row, token in enumerate(decode(wanted))]

    return measured(args, sample, rows * tokens)


@llama.llama_log_callback
def _silent(_level, _text, _data):
    pass


llama.llama_log_set(_silent, ctypes.c_void_p(0))
main({"generation": generation})
