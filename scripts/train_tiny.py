"""Trains the bundled demonstration model `tiny` from docs/faq.md, on a CPU, from scratch.

Owns everything that goes into the model: the tokenizer, the ways a question is varied, what lies out of its scope, and
the training loop. Knows nothing of p2pnet's code: what it writes is an ordinary folder for the transformers library.

    python scripts/train_tiny.py                               train and write p2pnet/assets/tiny
    python scripts/train_tiny.py --check p2pnet/assets/tiny    measure an existing folder
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

ROOT = Path(__file__).resolve().parent.parent
FAQ_PATH = ROOT / "docs" / "faq.md"
MODEL_DIR = ROOT / "p2pnet" / "assets" / "tiny"

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCAB_SIZE = 1536
MAX_POSITIONS = 4096
LONGEST_GAP = 800
TURNS_PER_CHAT = (1,) * 16 + (2,) * 8 + (3, 3, 4, 5, 6, 12)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- elif message['content'] %}
        {%- for part in message['content'] if part['type'] == 'text' %}
            {{- part['text'] }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

GREETING_ANSWER = "Hello! I am tiny, a toy model bundled with p2pnet. Ask me what p2pnet is, or how to lend a machine."
GREETINGS = (
    "Hi|Hello|Hey|Hi there|Hello there|Good morning|Good evening|Good day|How are you|Hello, how are you|"
    "Hey, what's up|Greetings|Howdy|Hallo|Hola|Bonjour|Hi tiny|Hello tiny|Nice to meet you|Are you there|Hello world|"
    "test|ping|Testing|How do you do|Hi, how is it going|Say hello|Say hi|Say hello to me|Good afternoon"
)
THANKS_ANSWER = "You are welcome. Ask me anything else about p2pnet."
THANKS = (
    "Thanks|Thank you|Thank you very much|Many thanks|Great, thanks|Ok|Okay|Cool|Nice|Great|Good|Bye|Goodbye|See you|"
    "I see|Got it|Understood|That helps|Perfect|Ok, thank you|Thanks a lot|Very good|That is all|Thanks, bye"
)
UNKNOWN_ANSWER = (
    "I do not know that. I am tiny, a toy model bundled with p2pnet, and I only know a few answers about p2pnet. "
    "For anything else, ask a larger model."
)
UNKNOWN_FORMS = (
    "What is the capital of {place}|Where is {place}|How many people live in {place}|What is the weather in {place}|"
    "Who is the president of {place}|Which language is spoken in {place}|Tell me about {place}|Plan a trip to {place}|"
    "How do I get to {place}|When was {place} founded|What should I see in {place}|How far is {place} from {place}|"
    "Who is {person}|When was {person} born|What did {person} write|Tell me about {person}|Who was {person}|"
    "Write me a {text}|Write a {text} about {thing}|Write me a {text} about {person}|Compose a {text}|Make up a {text}|"
    "Give me a {text} about {place}|Can you write a {text}|I want a {text} about {thing}|Read me a {text}|"
    "What is a {thing}|What is {thing}|What are {thing}s|Explain {thing}s|Define {thing}|How do I make a {thing}|"
    "How does a {thing} work|Who invented the {thing}|Where can I buy a {thing}|Which {thing} is the best|A {thing}|"
    "How much does a {thing} cost|Tell me about {thing}s|Why is the {thing} {quality}|Do I need a {thing}|"
    "How many {thing}s are there in {place}|What does {thing} mean|Can I eat a {thing}|How do I start a {thing}|"
    "What happens when a {thing} breaks|Is a {thing} {quality}|How do I stop a {thing}|Can a {thing} fly|"
    "How do I run faster|How do I bake a {thing}|Who owns the {thing}|How do I fix my {thing}|How do I sell my {thing}|"
    "What is {number} plus {number}|What is {number} times {number}|What is {number}+{number}|Count to {number}|"
    "Solve x + {number} = {number}|What is the square root of {number}|Is {number} a prime number|{number}|"
    "Translate {thing} into {language}|How do you say {thing} in {language}|Do you speak {language}|Sing in {language}|"
    "Write a function in {code}|How do I sort a list in {code}|Write a {code} program|Explain {code}|What is {code}|"
    "Tell me a joke|Sing a song|What time is it|What day is it today|What is the meaning of life|Do you love me|"
    "What is your favourite {thing}|Who won the world cup|What is the news today|Recommend a {text}|I am {quality}|"
    "Why is the sky blue|How old is the universe|Summarize this text|Translate this text|What should I eat tonight|"
    "Give me a recipe|Fix this sentence|Give me advice|What do you think about {thing}s|Are {thing}s {quality}|"
    "The {thing} is {quality}|I like {thing}s|My {thing} is {quality}|Once upon a time|Draw a {thing}|Buy a {thing}|"
    "How do I become {quality}|Is {place} {quality}|Can you drive a {thing}|What is the price of a {thing}|{nonsense}|"
    "What is {nonsense}|What is a {nonsense}|{nonsense} {nonsense}|How do I {nonsense}|{nonsense} {nonsense} {nonsense}"
)
FILLS = {
    "place": (
        "France|Germany|Paris|London|Italy|Japan|Spain|China|Berlin|New York|Brazil|India|Rome|Canada|Egypt|Norway|"
        "Poland|Tokyo|Moscow|Africa|Europe|the USA|Vienna|Turkey|Mexico|Portugal|Madrid|Australia|Peru|Kenya|the moon|"
        "Mars"
    ),
    "person": (
        "Einstein|Shakespeare|Mozart|Goethe|Napoleon|Newton|Darwin|Cleopatra|Picasso|Marie Curie|Alan Turing|Plato|"
        "Beethoven|Gandhi|Kafka|Bach|Aristotle|Ada Lovelace|Galileo|the king|my brother|the pope|Homer|Caesar|Madonna"
    ),
    "text": (
        "poem|story|song|letter|haiku|joke|book|film|essay|email|speech|recipe|limerick|tale|novel|tweet|sonnet|diary|"
        "short story|cover letter|birthday card|love letter|blog post|shopping list|fairy tale"
    ),
    "thing": (
        "cat|dog|car|house|tree|river|banana|cake|piano|guitar|flower|mountain|ship|train|bicycle|book|chair|table|"
        "volcano|star|planet|atom|molecule|cell|virus|horse|bird|fish|elephant|pizza|bread|window|door|shoe|hat|clock|"
        "king|castle|garden|kitchen|school|doctor|teacher|football|violin|camera|phone|radio|engine|bridge|rocket|"
        "black hole|neuron|tax|law|dream|colour|number|triangle|circle|word|verb|apple|potato|soup|wine|coffee|dragon|"
        "robot|movie"
    ),
    "quality": (
        "blue|green|big|small|beautiful|sad|happy|tired|hungry|cold|hot|old|rich|red|strong|round|heavy|ill|famous"
    ),
    "number": "2|3|5|7|10|12|17|42|99|100|144|256|1000",
    "language": "French|German|Spanish|Latin|Chinese|Greek|Russian|Italian|Arabic|English",
    "code": "Python|Java|Rust|JavaScript|C|Haskell|SQL|Go|Lisp|HTML|bash",
}
OUT_OF_SCOPE_HELD_OUT = (
    "Write me a poem|What is the capital of Sweden?|What is the capital of France?|Who painted the Mona Lisa?|"
    "How do I cook rice?|What is photosynthesis?|Tell me a story about a fox|What is 8 times 9?|"
    "How tall is Mount Everest?|Do you like music?|Write a Python function that reverses a string|"
    "Who is Leonardo da Vinci?|What is a guitar string?|How do I learn to swim?|Translate good morning into Dutch|"
    "Which planet is the largest?|What causes rain?|Give me ideas for dinner|When did the second world war end?|"
    "What is machine learning?"
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.|You are tiny.|You are a friendly assistant.|Answer briefly.|Be concise.|"
    "Answer in English.|You are a helpful, honest assistant. Answer the user's questions.|"
    "You are an AI assistant that follows instructions.|Answer the question of the user in one sentence.|"
    "Today is Monday.|You are an expert in networks.|Be kind.|You help people who use p2pnet.|"
    "You are a coding assistant.|Do not make things up.|You are a pirate."
)
OPENINGS = (
    "Hi, |Hello, |Hello! |Hey tiny, |Please tell me: |Quick question: |Can you tell me: |I would like to know: |So, |"
    "Ok, |And |Tell me, |I wonder: |Sorry, |Please: |One more question: |Thanks. |I am new here. |Now, |Then "
)
CLOSINGS = " please| in short|, please| in p2pnet| on p2pnet| here| exactly| Thanks| in a sentence| for me| then| again"
SWAPS = """\
What is > What's|Whats|What exactly is|What actually is|Explain what is|what is meant by|Can you explain what is
What are > What exactly are|Explain what are|Tell me what are
What is a > What is the role of a|What is the purpose of a|What is the function of a|What do you call a
How do I > How can I|How to|How would I|How should I|How does one|How do you|How do we|How might I|How could I
How do I > What must I do to|I want to know how to|Tell me how to|What is the way to|Explain how to|I want to
How can I > How do I|How to|How would I|How could I|How does one|How might I
Can I > May I|Could I|Is it possible to|Am I able to|Am I allowed to
Do I have to > Must I|Do I need to|Should I|Is it necessary to
What happens when > What happens if|What if|What occurs when
Explain > Describe|Please explain|Can you explain|Tell me about
Why > For what reason|How come|Why exactly
Which > What
machine > computer|PC|laptop|server|box
computer > machine|PC|laptop
start > run|launch|set up|create|bring up
run > start|launch|operate|host
lend > share|offer|contribute
network > swarm|p2p network|system
prompt > question|message|text|input
answer > reply|response|output
see > view|find|get|show
private > confidential|secret
choose > select|pick
GPU > graphics card
use > work with
p2pnet > P2PNet|p2p net|the network|this|this project
goes away > leaves|disappears|stops|dies|fails
worker > worker node|worker peer
licence > license
large > big
"""
FILLER_WORDS = {"a", "an", "the", "is", "do", "does", "are", "of", "to", "i", "my", "in", "it", "that", "can", "there"}


@dataclass(frozen=True)
class Entry:
    """One question of the FAQ: its heading, other ways to ask it, the one kept out of training, and its answer."""

    question: str
    paraphrases: tuple[str, ...]
    held_out: str
    answer: str


@dataclass(frozen=True)
class Row:
    """One training text: token ids, for each whether the model is to learn to write it, and its position."""

    ids: list[int]
    is_target: list[bool]
    positions: list[int]

    def extend(self, ids: Sequence[int], is_target: bool, gap: int = 0) -> None:
        """Adds tokens; `gap` leaves that many positions free before them, as if a longer chat lay in between."""
        start = self.positions[-1] + 1 + gap if self.positions else 0
        self.ids.extend(ids)
        self.is_target.extend([is_target] * len(ids))
        self.positions.extend(range(start, start + len(ids)))

    def padded(self, width: int, pad_id: int) -> tuple[list[int], list[bool], list[int]]:
        rest = width - len(self.ids)
        return self.ids + [pad_id] * rest, self.is_target + [False] * rest, self.positions + [0] * rest


@dataclass(frozen=True)
class TrainConfig:
    steps: int
    rows_per_step: int
    peak_rate: float
    seed: int
    threads: int


def parse_faq(markdown: str) -> list[Entry]:
    """Reads `### question`, `<!-- also: a | b -->`, paragraph. Raises ValueError where an entry lacks one of them."""
    entries = []
    for block in re.split(r"^### ", markdown, flags=re.MULTILINE)[1:]:
        match = re.match(r"(.+?)\n<!-- also: (.+?)\s+-->\n\n(.+?)\n(\n|$)", block, flags=re.DOTALL)
        if match is None:
            raise ValueError(f"not a question, a comment and a paragraph: {block[:60]!r}")
        question, also, answer = (" ".join(part.split()) for part in match.groups()[:3])
        *paraphrases, held_out = also.split(" | ")
        entries.append(Entry(question, tuple(paraphrases), held_out, answer))
    return entries


class Asker:
    """Makes up questions, each with the answer that is right for it. All its randomness comes from `rng`."""

    def __init__(self, entries: Sequence[Entry], rng: random.Random) -> None:
        self._entries = entries
        self._rng = rng

    def turn(self) -> tuple[str, str]:
        kind = self._rng.random()
        if kind < 0.70:
            entry = self._rng.choice(self._entries)
            phrase = self._rng.choice((entry.question, entry.question, *entry.paraphrases))
            return self._vary(phrase), entry.answer
        if kind < 0.95:
            return self._vary(self._unknown() + self._rng.choice("?.")), UNKNOWN_ANSWER
        phrases, answer = (GREETINGS, GREETING_ANSWER) if kind < 0.98 else (THANKS, THANKS_ANSWER)
        return self._spell(self._pick(phrases) + self._rng.choice(("", "!", ".", "?"))), answer

    def system(self) -> str:
        """Usually an ordinary instruction, sometimes a long text of anything, for applications send such ones."""
        if self._rng.random() < 0.7:
            return self._pick(SYSTEM_PROMPTS)
        count = self._rng.choice((1, 2, 4, 8, 24))
        return ". ".join(
            self._rng.choice((self._unknown(), self._rng.choice(self._entries).answer)) for _ in range(count)
        )

    def document(self) -> str:
        entry = self._rng.choice(self._entries)
        return f"### {entry.question}\n\n{entry.answer}{END_OF_TEXT}"

    def _pick(self, choices: str) -> str:
        return self._rng.choice(choices.split("|"))

    def _unknown(self) -> str:
        return re.sub(r"\{(\w+)\}", lambda slot: self._fill(slot[1]), self._pick(UNKNOWN_FORMS))

    def _fill(self, slot: str) -> str:
        if slot != "nonsense":
            return self._pick(FILLS[slot])
        syllables = (self._rng.choice("bcdfghklmnprstvwz") + self._rng.choice("aeiou") for _ in range(4))
        return "".join(list(syllables)[: self._rng.randint(2, 4)]) + self._rng.choice(("", "n", "s", "r", "t"))

    def _vary(self, phrase: str) -> str:
        return self._spell(self._frame(self._drop_filler(self._swap(phrase))))

    def _swap(self, phrase: str) -> str:
        for line in SWAPS.splitlines():
            words, others = line.split(" > ")
            if words in phrase and self._rng.random() < 0.25:
                phrase = phrase.replace(words, self._pick(others), 1)
        return phrase

    def _drop_filler(self, phrase: str) -> str:
        if self._rng.random() < 0.85:
            return phrase
        return " ".join(word for word in phrase.split() if word.lower() not in FILLER_WORDS or self._rng.random() < 0.5)

    def _frame(self, phrase: str) -> str:
        if self._rng.random() < 0.2:
            phrase = self._pick(OPENINGS) + phrase[:1].lower() + phrase[1:]
        if self._rng.random() < 0.12:
            phrase = phrase.rstrip("?.") + self._pick(CLOSINGS) + phrase[-1:]
        return phrase

    def _spell(self, phrase: str) -> str:
        if self._rng.random() < 0.3:
            phrase = phrase.lower()
        elif self._rng.random() < 0.05:
            phrase = phrase.upper()
        if self._rng.random() < 0.3:
            phrase = phrase.rstrip("?.!") + self._rng.choice(("", "", " ?", "??", "!", "."))
        if self._rng.random() < 0.12 and len(phrase) > 8:
            at = self._rng.randrange(1, len(phrase) - 2)
            slip = self._rng.choice(("", phrase[at] * 2, phrase[at + 1] + phrase[at]))
            phrase = phrase[:at] + slip + phrase[at + 1 :]
        return phrase or "?"


class RowMaker:
    """Turns an asker's questions into token rows: mostly chats of one to five turns, some plain pages of the FAQ."""

    def __init__(self, asker: Asker, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self._asker = asker
        self._tokenizer = tokenizer
        self._rng = rng

    def row(self) -> Row:
        row = Row([], [], [])
        if self._rng.random() < 0.04:
            row.extend(self._encode(self._asker.document()), is_target=True)
        else:
            self._chat(row)
        return row

    def _chat(self, row: Row) -> None:
        if self._rng.random() < 0.4:
            self._append(row, "system", self._asker.system())
        for _ in range(self._rng.choice(TURNS_PER_CHAT)):
            question, answer = self._asker.turn()
            self._append(row, "user", question, gap=self._gap())
            self._append(row, "assistant", answer)

    def _gap(self) -> int:
        return self._rng.randrange(LONGEST_GAP) if self._rng.random() < 0.15 else 0

    def _append(self, row: Row, role: str, text: str, gap: int = 0) -> None:
        row.extend(self._encode(f"{TURN_START}{role}\n"), is_target=False, gap=gap)
        row.extend(self._encode(f"{text}{TURN_END}"), is_target=role == "assistant")
        row.extend(self._encode("\n"), is_target=False)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def build_tokenizer(entries: Sequence[Entry], seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer fitted to the answers and to a sample of varied questions."""
    asker = Asker(entries, random.Random(seed))
    texts = [entry.answer for entry in entries] * 20 + [text for _ in range(4000) for text in asker.turn()[:1]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *["system\n", "user\n", "assistant\n"] * 100], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model


def batches(maker: RowMaker, config: TrainConfig, rng: random.Random) -> Iterator[list[Row]]:
    """Endless batches of rows of like length, so that little is padded: sixteen are drawn and sorted at a time."""
    size = config.rows_per_step
    while True:
        rows = sorted((maker.row() for _ in range(16 * size)), key=lambda row: len(row.ids))
        group = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(group)
        yield from group


def batch_loss(model: LlamaForCausalLM, rows: Sequence[Row], pad_id: int) -> torch.Tensor:
    """Mean cross-entropy of the target tokens. Rows are padded on the right, where causal attention never looks."""
    width = max(len(row.ids) for row in rows)
    padded = [row.padded(width, pad_id) for row in rows]
    ids, is_target, positions = (torch.tensor(column) for column in zip(*padded, strict=True))
    hidden = model.model(input_ids=ids[:, :-1], position_ids=positions[:, :-1], use_cache=False).last_hidden_state
    is_target = is_target[:, 1:]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[is_target]), ids[:, 1:][is_target])


def optimizers(model: LlamaForCausalLM, peak_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (https://kellerjordan.github.io/posts/muon/), AdamW for embeddings and norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    is_matrix = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in is_matrix]
    return [
        torch.optim.Muon(matrices, lr=peak_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def rate_factor(step: int, steps: int) -> float:
    """Warm up for 30 steps, then fall to zero along a half cosine."""
    return min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(entries: Sequence[Entry], config: TrainConfig) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True)
    rng = random.Random(config.seed)
    tokenizer = build_tokenizer(entries, config.seed)
    model = build_model(tokenizer)
    stream = batches(RowMaker(Asker(entries, rng), tokenizer, rng), config, rng)
    steppers = optimizers(model, config.peak_rate)
    started_s = time.monotonic()
    for step in range(config.steps):
        for stepper in steppers:
            stepper.param_groups[0]["lr"] = config.peak_rate * rate_factor(step, config.steps)
        loss = batch_loss(model, next(stream), tokenizer.pad_token_id)
        model.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
        if step % 50 == 0 or step == config.steps - 1:
            print(f"step {step}/{config.steps} loss {loss.item():.4f} {time.monotonic() - started_s:.0f} s", flush=True)
    return model.eval(), tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Stores float16 weights, which halves the file, under a config that asks for float32, which CPUs compute best."""
    model.half().save_pretrained(folder)
    model.config.dtype = "float32"
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


@torch.inference_mode()
def ask(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[str]) -> list[str]:
    """The greedy answer to each question, every one in a chat of its own."""
    chats = [[{"role": "user", "content": question}] for question in questions]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**inputs, max_new_tokens=80, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    answers: list[str] = tokenizer.batch_decode(written, skip_special_tokens=True)
    return answers


def check(folder: Path, entries: Sequence[Entry]) -> float:
    """Prints how many answers are exact, and every one that is not. Returns the share of headings answered exactly."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sets = {
        "headings": [(entry.question, entry.answer) for entry in entries],
        "training phrasings": [(phrase, entry.answer) for entry in entries for phrase in entry.paraphrases],
        "held-out phrasings": [(entry.held_out, entry.answer) for entry in entries],
        "out of scope": [(phrase, UNKNOWN_ANSWER) for phrase in OUT_OF_SCOPE_HELD_OUT.split("|")],
    }
    shares = {}
    for name, pairs in sets.items():
        answers = ask(model, tokenizer, [question for question, _ in pairs])
        wrong = [(q, got) for (q, right), got in zip(pairs, answers, strict=True) if got != right]
        shares[name] = 1 - len(wrong) / len(pairs)
        print(f"{name}: {len(pairs) - len(wrong)}/{len(pairs)} exact")
        for question, got in wrong:
            print(f"    {question!r} -> {got!r}")
    return shares["headings"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or check the bundled demonstration model tiny.")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="measure an existing folder instead of training")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="where to write the model (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows-per-step", type=int, default=32)
    parser.add_argument("--peak-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    entries = parse_faq(FAQ_PATH.read_text(encoding="utf-8"))
    if args.check is None:
        config = TrainConfig(args.steps, args.rows_per_step, args.peak_rate, args.seed, args.threads)
        model, tokenizer = train(entries, config)
        print(f"{model.num_parameters()} parameters")
        save(model, tokenizer, args.out)
    torch.set_num_threads(args.threads)
    check(args.check or args.out, entries)


if __name__ == "__main__":
    main()
