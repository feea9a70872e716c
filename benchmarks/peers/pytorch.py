"""Train step, log-probs and generation in PyTorch and transformers."""

import contextlib

import torch

from workload import ids, main, measured, model

PROMPT = 32


def batch(args, rows, tokens):
    return torch.tensor([ids(row, tokens) for row in range(rows)], device=args.device)


def log_probs_of(policy, tokens):
    logits = policy(input_ids=tokens[:, :-1], use_cache=False).logits
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def loss_of(log_probs, advantages):
    ratio = torch.exp((log_probs - log_probs.detach()).mean(dim=1, keepdim=True))
    clipped = ratio.clamp(1 - 2e-3, 1 + 2.5e-3)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return -(surrogate.squeeze(1) * log_probs.shape[1]).mean()


def by_signs(args, rows):
    return torch.tensor([1.0 if row % 2 == 0 else -1.0 for row in range(rows)], device=args.device)[:, None]


def train_step(args, rows, tokens):
    """On a GPU in bf16: products in bf16, weights, gradients and moments in f32 (torch.autocast)."""
    mixed = args.dtype == "bf16"
    args.dtype = "f32"
    policy, ids_, advantages = model(args), batch(args, rows, tokens), by_signs(args, rows)
    args.dtype = "bf16" if mixed else "f32"
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, weight_decay=0.01, fused=True)

    def step():
        with torch.autocast(args.device, torch.bfloat16) if mixed else contextlib.nullcontext():
            log_probs = log_probs_of(policy, ids_)
        loss_of(log_probs, advantages).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return measured(args, step, rows * tokens)


def gradients(args, rows, tokens):
    """Weights and gradients of the same type; blocks are computed again, as luspo does from a billion parameters on."""
    policy, ids_, advantages = model(args).train(), batch(args, rows, tokens), by_signs(args, rows)
    if args.shape == "7b":
        policy.gradient_checkpointing_enable({"use_reentrant": False})

    def step():
        loss_of(log_probs_of(policy, ids_), advantages).backward()
        policy.zero_grad()

    return measured(args, step, rows * tokens)


def log_probs(args, rows, tokens):
    policy, ids_ = model(args).eval(), batch(args, rows, tokens)
    with torch.no_grad():
        return measured(args, lambda: log_probs_of(policy, ids_), rows * tokens)


def loss(args, rows, tokens):
    row, t = torch.arange(rows)[:, None], torch.arange(tokens)[None, :]
    old = -((row * 31 + t * 17) % 97) / 32.0
    start = old + ((row * 13 + t * 7) % 11) / 1000.0 - 0.005
    advantages = (row % 7) / 3.0 - 1.0
    lengths = 1 + row * 2039 % tokens
    mask = (t < lengths).float()

    def step():
        log_probs = start.detach().requires_grad_()
        length = mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        ratio = torch.exp(((log_probs - old) * mask).sum(dim=1, keepdim=True) / length)
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - 2e-3, 1 + 2.5e-3) * advantages)
        (-(surrogate * length).mean()).backward()

    return measured(args, step, int(lengths.sum()))


def generation(args, rows, tokens):
    policy, prompts = model(args).eval(), batch(args, rows, PROMPT)

    def sample():
        policy.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            pad_token_id=0,
        )

    return measured(args, sample, rows * tokens)


def ragged(args, rows, tokens):
    """One padded batch, which goes on until its longest answer has ended."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    policy, prompts = model(args).eval(), batch(args, rows, PROMPT)
    lengths = [8 + (row * 37 % rows) * max(tokens - 8, 0) // max(rows - 1, 1) for row in range(rows)]
    ends = torch.tensor(lengths, device=args.device) + PROMPT

    class AtItsLength(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return ends <= input_ids.shape[1]

    def sample():
        policy.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([AtItsLength()]),
        )

    return measured(args, sample, sum(lengths))


main(
    {
        "train_step": train_step,
        "gradients": gradients,
        "log_probs": log_probs,
        "loss": loss,
        "generation": generation,
        "ragged": ragged,
    }
)
