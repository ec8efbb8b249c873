"""The prompts: everyday tasks, each with one instruction about the form that a program can check."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One request."""

    kind: str
    """Name in `flexrec.forgetting.checks.CHECKS`."""
    text: str
    arguments: Mapping[str, Any]
    """Of the check."""
    topic: tuple[str, ...]
    """Beginnings of words of which an answer has at least one; empty where the instruction itself asks for words."""


_BY_KIND: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "lowercase": [
        ("What is the capital of France? Answer in all lowercase letters, without any capital letter.", {}, "paris"),
        ("Describe a rainy day in one sentence. Use lowercase letters only.", {}, "rain wet cloud umbrella drop"),
        (
            "Name three planets. Your whole answer has to be in lowercase letters.",
            {},
            "mercury venus earth mars jupiter saturn uranus neptune",
        ),
        ("Write a short greeting to a friend called Anna. Do not use any capital letters.", {}, "anna"),
        ("Who wrote Romeo and Juliet? Write everything in lowercase.", {}, "shakespeare"),
    ],
    "uppercase": [
        ("Name the largest ocean. Answer in all capital letters.", {}, "pacific"),
        ("Write one sentence about dogs. Your whole answer has to be in capital letters.", {}, "dog pet bark tail"),
        ("Tell me to drink more water. Use capital letters only, no lowercase letter.", {}, "water hydrat drink"),
        ("What colour is the sky on a clear day? Write everything in uppercase.", {}, "blue"),
        ("Give me one tip for a good night's sleep, in capital letters only.", {}, "sleep bed night dark relax screen"),
    ],
    "bullets": [
        (
            "List fruits as exactly 3 bullet points. Begin each with '* '.",
            {"count": 3},
            "apple banana orange grape straw blueb mango pear peach fruit melon kiwi cherr",
        ),
        (
            "Give reasons to read books, in exactly 2 bullet points that begin with '* '.",
            {"count": 2},
            "knowledge learn imagin vocabular relax read stor book mind",
        ),
        (
            "What do I need for a picnic? Answer with exactly 4 short bullet points such as '* this one'.",
            {"count": 4},
            "blanket food drink basket sandwich water snack plate fruit picnic cup",
        ),
        (
            "Name musical instruments as exactly 5 bullet points, each beginning with '* '.",
            {"count": 5},
            "guitar piano violin drum flute trumpet cello saxophone harp clarinet",
        ),
        (
            "What should I pack for the beach? Exactly 3 bullet points, each beginning with '- '.",
            {"count": 3},
            "towel sunscreen swim hat water sunglasses umbrella sandal",
        ),
    ],
    "include": [
        ("Write one sentence about the sea. Use the word 'pepper' in it.", {"word": "pepper"}, ""),
        ("Recommend a hobby in one or two sentences. Include the word 'ladder'.", {"word": "ladder"}, ""),
        ("Describe a cat in one sentence that contains the word 'piano'.", {"word": "piano"}, ""),
        ("Explain in one sentence why exercise is healthy. The word 'window' must occur.", {"word": "window"}, ""),
        ("Write a sentence about a train journey. It has to include the word 'marble'.", {"word": "marble"}, ""),
    ],
    "avoid": [
        (
            "Describe snow in two sentences. Do not use the word 'white'.",
            {"word": "white"},
            "cold flake winter frozen ice fluffy soft snow cover blanket",
        ),
        (
            "What is the sun? Answer in one or two sentences without the word 'star'.",
            {"word": "star"},
            "light heat hot sun energy solar earth warm gas",
        ),
        (
            "Explain what a bicycle is in one sentence. Do not use the word 'two'.",
            {"word": "two"},
            "wheel vehicle pedal ride transport bike bicycle",
        ),
        (
            "What is a library? Answer in one sentence. The word 'books' is forbidden.",
            {"word": "books"},
            "read building place library information borrow collection knowledge",
        ),
        (
            "Describe the taste of a lemon in one sentence without the word 'sour'.",
            {"word": "sour"},
            "citrus lemon tang tart acid bitter sharp fresh zest",
        ),
    ],
    "ending": [
        (
            "Wish me a happy birthday in one sentence. End with the exact phrase 'That is all.'",
            {"phrase": "That is all."},
            "",
        ),
        (
            "Tell me a fact about whales. Finish with exactly these words: Now you know.",
            {"phrase": "Now you know."},
            "",
        ),
        (
            "Suggest a dinner in one sentence. The last words must be 'Enjoy your meal!'",
            {"phrase": "Enjoy your meal!"},
            "",
        ),
        ("What is gravity? One sentence, then end with: Any other questions?", {"phrase": "Any other questions?"}, ""),
        ("Describe autumn in one sentence and end your answer with 'The end.'", {"phrase": "The end."}, ""),
    ],
    "quotes": [
        (
            "Say something kind about a neighbour. Wrap your whole answer in double quotation marks.",
            {},
            "neighbo kind help friend thank nice good care",
        ),
        ("What is the opposite of hot? Put your entire answer in double quotes.", {}, "cold cool"),
        (
            "Write a short motto for a bakery. Your whole answer has to be inside double quotation marks.",
            {},
            "bread bak fresh cake sweet dough oven pastr flour",
        ),
        (
            "Name a famous river. Begin and end your answer with a double quotation mark.",
            {},
            "nile amazon river mississippi danube thames ganges rhine seine yangtze",
        ),
        ("Write one sentence about friendship and wrap all of it in double quotes.", {}, "friend"),
    ],
    "json_keys": [
        (
            "Describe a person as JSON with the keys 'name' and 'age'. Only the JSON, nothing else.",
            {"keys": ["name", "age"]},
            "",
        ),
        (
            "Give a book as a JSON object with the keys 'title' and 'author', and write nothing else.",
            {"keys": ["title", "author"]},
            "",
        ),
        (
            "Answer with one JSON object and nothing else. Keys: 'city', 'country'. It is about Rome.",
            {"keys": ["city", "country"]},
            "",
        ),
        (
            "Write a JSON object with the single key 'answer' that says what 2 + 2 is. No other text.",
            {"keys": ["answer"]},
            "",
        ),
        (
            "Give an animal as JSON with the keys 'name', 'legs' and 'sound'. Only the JSON object.",
            {"keys": ["name", "legs", "sound"]},
            "",
        ),
    ],
    "max_words": [
        ("What is the moon? Answer with at most 10 words.", {"count": 10}, "earth satellite orbit moon night rock"),
        (
            "Why do leaves fall in autumn? Use no more than 15 words.",
            {"count": 15},
            "cold chloro winter season light temperature tree lea water energy autumn",
        ),
        (
            "Describe your favourite food in at most 8 words.",
            {"count": 8},
            "pizza food pasta chicken rice chocolate delicious sweet spic cheese sushi burger taste",
        ),
        (
            "What does a doctor do? At most 12 words.",
            {"count": 12},
            "patient health medic treat diagnos heal sick ill disease care",
        ),
        (
            "Give advice to a new student in 20 words or fewer.",
            {"count": 20},
            "learn stud time ask question school teacher work friend class read goal help organ",
        ),
    ],
    "paragraphs": [
        ("Write 2 very short paragraphs about tea. Put a line with *** between them.", {"count": 2}, "tea"),
        (
            "Write exactly 3 paragraphs of one short sentence each about winter, separated by a line with ***.",
            {"count": 3},
            "winter snow cold ice",
        ),
        (
            "Compare cats and dogs in 2 paragraphs of one sentence, separated by the divider *** on its own line.",
            {"count": 2},
            "cat dog",
        ),
        (
            "Name three colours in 3 paragraphs of one word each. Separate them by a line that holds ***.",
            {"count": 3},
            "red blue green yellow orange purple black white pink brown",
        ),
        ("Say hello and goodbye in 2 paragraphs with a line *** between them.", {"count": 2}, "hello goodbye bye"),
    ],
    "no_commas": [
        (
            "Name three animals that live on a farm. Do not use any commas.",
            {},
            "cow pig chicken sheep goat horse duck hen turkey",
        ),
        ("Describe a forest in two sentences without using a comma.", {}, "tree forest leaf leaves wood green"),
        (
            "What can you buy in a supermarket? Answer in one sentence. Commas are forbidden.",
            {},
            "food fruit milk bread vegetable meat grocer product snack drink item",
        ),
        ("Tell me how to boil an egg in two sentences. Do not use commas.", {}, "egg water boil pot"),
        ("List the days of the weekend and what you do on them without any comma.", {}, "saturday sunday weekend"),
    ],
    "title": [
        (
            "Write a two-line poem about the wind. It needs a title in double angular brackets, such as <<title>>.",
            {},
            "wind breeze blow air",
        ),
        ("Suggest a name for a story about a lost key. Wrap the name in double angular brackets: <<name>>.", {}, ""),
        (
            "Write one sentence about mountains below a title that is wrapped like this: <<my title>>.",
            {},
            "mountain peak hill summit climb high",
        ),
        (
            "Invent the title of a film about bees and write it in double angular brackets, i.e. <<title>>.",
            {},
            "bee hive honey buzz swarm sting",
        ),
        ("Write a one-sentence story. Begin with its title in double angular brackets, such as <<a title>>.", {}, ""),
    ],
}

PROMPTS: tuple[Prompt, ...] = tuple(
    Prompt(kind, text, MappingProxyType(arguments), tuple(topic.split()))
    for row in zip(*_BY_KIND.values(), strict=True)
    for kind, (text, arguments, topic) in zip(_BY_KIND, row, strict=True)
)
"""One of each kind, then the second of each, and so on: any number of them from the start is spread over the kinds."""
