"""A whole RL step by TRL's GRPOTrainer: answers to prompts of 33 tokens, in groups of four."""

import resource
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from workload import VOCAB, figures, ids, main, model

GROUP = 4
PROMPT = 33


def tokenizer():
    """A word a token."""
    vocabulary = {f"w{i}": i for i in range(VOCAB)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w0")


def reward(completion_ids, **_):
    return [sum(token % 2 == 0 for token in answer) / len(answer) for answer in completion_ids]


class Clock(TrainerCallback):
    """Times every step after the first."""

    def __init__(self):
        self.seconds = []
        self.before = None

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 1:
            self.before = resource.getrusage(resource.RUSAGE_SELF)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if state.global_step > 1:
            self.seconds.append(time.perf_counter() - self.start)


def rlvr_step(args, rows, tokens):
    threads = torch.get_num_threads()
    prompts = [" ".join(f"w{token}" for token in ids(row, PROMPT)) for row in range(rows // GROUP)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=rows,
            num_generations=GROUP,
            max_completion_length=tokens,
            generation_kwargs={"min_new_tokens": tokens},
            temperature=1.0,
            loss_type="luspo",
            importance_sampling_level="sequence",
            epsilon=2e-3,
            epsilon_high=2.5e-3,
            beta=0.0,
            learning_rate=1e-6,
            weight_decay=0.01,
            max_steps=args.runs + 1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = GRPOTrainer(
            model=model(args),
            args=config,
            processing_class=tokenizer(),
            reward_funcs=reward,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts] * (args.runs + 1)),
            callbacks=[clock],
        )
        torch.set_num_threads(threads)  # the trainer may have changed it
        trainer.train()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return figures(args, clock.seconds, clock.before, after, rows * tokens)


main({"rlvr_step": rlvr_step})
