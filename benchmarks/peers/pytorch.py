"""Train step, log-probs and generation in PyTorch and transformers."""

import torch

from workload import HALF_BILLION, ROWS, SMALL, ids, main, measured, model

SEQ = 256
PROMPT = 32
RESPONSE = 128


def batch(rows, seq):
    return torch.tensor([ids(row, seq) for row in range(rows)])


def log_probs_of(policy, tokens):
    logits = policy(input_ids=tokens[:, :-1], use_cache=False).logits
    return torch.log_softmax(logits, dim=-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def train_step(runs, shape=SMALL, rows=ROWS, seq=SEQ):
    policy, tokens = model(shape), batch(rows, seq)
    advantages = torch.tensor([1.0 if row % 2 == 0 else -1.0 for row in range(rows)])[:, None]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, weight_decay=0.01, fused=True)

    def step():
        log_probs = log_probs_of(policy, tokens)
        ratio = torch.exp((log_probs - log_probs.detach()).mean(dim=1, keepdim=True))
        clipped = ratio.clamp(1 - 2e-3, 1 + 2.5e-3)
        surrogate = torch.minimum(ratio * advantages, clipped * advantages)
        loss = -(surrogate.squeeze(1) * log_probs.shape[1]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return measured(step, runs, rows * seq)


def log_probs(runs, shape=SMALL, rows=ROWS, seq=SEQ):
    policy, tokens = model(shape).eval(), batch(rows, seq)
    with torch.no_grad():
        return measured(lambda: log_probs_of(policy, tokens), runs, rows * seq)


def train_step_half_billion(runs):
    return train_step(runs, HALF_BILLION, 1, 128)


def log_probs_half_billion(runs):
    return log_probs(runs, HALF_BILLION, 1, 128)


def loss(runs):
    rows, seq = 512, 4096
    row, t = torch.arange(rows)[:, None], torch.arange(seq)[None, :]
    old = -((row * 31 + t * 17) % 97) / 32.0
    start = old + ((row * 13 + t * 7) % 11) / 1000.0 - 0.005
    advantages = (row % 7) / 3.0 - 1.0
    lengths = 1 + row * 2039 % seq
    mask = (t < lengths).float()

    def step():
        log_probs = start.detach().requires_grad_()
        length = mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        ratio = torch.exp(((log_probs - old) * mask).sum(dim=1, keepdim=True) / length)
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - 2e-3, 1 + 2.5e-3) * advantages)
        (-(surrogate * length).mean()).backward()

    return measured(step, runs, int(lengths.sum()))


def generation(runs):
    policy = model().eval()
    prompts = torch.tensor([ids(row, PROMPT) for row in range(ROWS)])

    def sample():
        policy.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=RESPONSE,
            min_new_tokens=RESPONSE,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            pad_token_id=0,
        )

    return measured(sample, runs, ROWS * RESPONSE)


main(
    {
        "train_step": train_step,
        "log_probs": log_probs,
        "train_step_half_billion": train_step_half_billion,
        "log_probs_half_billion": log_probs_half_billion,
        "loss": loss,
        "generation": generation,
    }
)
