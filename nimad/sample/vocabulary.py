"""What a sample's memories say: topics, sentences and texts."""

from random import Random

from nimad.sample.request import Sample
from nimad.sample.seeded_random import chance, rng_of
from nimad.sample.times import written

SENTENCES_PER_TOPIC = 600
SENTENCE_CHARACTERS = 60  #: Fewer than a sentence has on average, so that a text never runs short.

AGENT = "Ember"
PEOPLE = ("Maya", "Jonas", "Priya", "Zoë", "Tomás", "Ingrid", "Wei")
AFFECTS = ("SEEKING", "CARE", "PLAY", "FEAR", "RAGE", "PANIC")

#: Topic: its nouns. A topic has its own sentences and its own centre among the embeddings.
_TOPIC_LINES = """
garden: seedling compost trellis orchard greenhouse hedge tomato frost blossom soil beehive
kitchen: sourdough oven recipe saffron dumpling pantry kettle marinade whisk broth cinnamon
music: melody cello chord rehearsal tempo chorus metronome ballad fiddle overture rhythm harmony
travel: itinerary passport ferry hostel timetable luggage border lighthouse compass map visa
code: compiler branch function bug deployment refactor cache parser thread exception commit
database: index query schema migration backup transaction replica checksum table snapshot cursor
health: appointment allergy physiotherapy vitamin sleep pulse doctor bandage vaccine migraine
family: grandmother birthday cousin photograph wedding nephew letter heirloom reunion cradle
money: invoice budget receipt mortgage savings insurance refund salary deadline pension ledger
weather: thunderstorm drizzle forecast sunrise fog blizzard breeze humidity rainbow heatwave
books: novel chapter library bookmark author metaphor essay footnote manuscript sonnet archive
astronomy: telescope nebula eclipse orbit comet meteor galaxy crater satellite constellation
bicycle: chain saddle puncture brake gear pannier helmet spoke derailleur tyre handlebar bell
school: homework algebra teacher exam classroom tutor lecture notebook syllabus semester
dreams: corridor staircase mirror ocean doorway lantern labyrinth feather whisper island bridge
pets: kitten terrier leash aquarium parrot whisker kennel veterinarian hamster tortoise collar
"""
TOPICS = {line.split(": ")[0]: line.split(": ")[1].split() for line in _TOPIC_LINES.strip().split("\n")}
_VERBS = """
described repaired remembered questioned borrowed planned finished rewrote measured forgot praised
compared postponed explained carried noticed sketched protected imagined counted sorted delayed promised
shared replaced discovered examined trusted recorded simplified rescued tested admired avoided rebuilt
"""
_ADJECTIVES = """
quiet broken second patient golden awkward familiar hidden early stubborn gentle careful enormous fragile
honest sudden ordinary missing clever distant crooked faithful hollow nervous polished recent silver
tangled unfinished warm curious blue narrow promising reluctant
"""
_OPENINGS = """
This morning|After a long pause|Without being asked|Once again|Late at night|For the third time|Before lunch
In the end|To nobody's surprise|On the way home|Two weeks ago|With some relief|Rather quickly|At first
"""
_ENDINGS = """
because the plan had changed|and asked to be reminded on Friday|although nobody had expected it
which felt lighter than before|so the next step is clear|but one detail is still open|as agreed last time
and that seemed to matter a great deal|while the others waited outside|and then laughed about it
though the reason was never given|until everything fitted together|which is worth keeping in mind
"""
_RARE = """
That made everyone smile 🙂.|“Naïve”, she called it, but the café at the corner agreed.
It's 'good enough', he said; "good enough" it stayed.|Good luck from the whole team 👍🏽🎉.
Zoë answered: ça va très bien, merci.|明日もよろしくお願いします was written on the note.
The total came to 42,50 € — half of what we feared.|Schöne Grüße aus Köln stood on the card.
"""


def sentences_of(sample: Sample) -> dict[str, list[str]]:
    """Return each topic's sentences; each ends with the space or the line breaks that follow it."""
    rng = rng_of(sample, "sentences")
    return {topic: [sentence(rng, nouns) for _ in range(SENTENCES_PER_TOPIC)] for topic, nouns in TOPICS.items()}


def sentence(rng: Random, nouns: list[str]) -> str:
    after = "\n\n" if chance(rng, 0.12) else " "
    if chance(rng, 0.03):
        return rng.choice(_phrases(_RARE)) + after
    who, verb, adjective = rng.choice(PEOPLE), rng.choice(_VERBS.split()), rng.choice(_ADJECTIVES.split())
    opening, ending = rng.choice(_phrases(_OPENINGS)), rng.choice(_phrases(_ENDINGS))
    one, other = rng.sample(nouns, 2)
    forms = (
        f"{opening} {who} {verb} the {adjective} {one} {ending}.",
        f"{who} {verb} the {one} and the {adjective} {other} {ending}.",
        f"{opening} the {adjective} {one} was next to the {other}, {ending}.",
    )
    return rng.choice(forms) + after


def _phrases(lines: str) -> list[str]:
    return lines.strip().replace("\n", "|").split("|")


def text_of(rng: Random, node_id: int, timestamp: int, sentences: list[str], limits: tuple[int, int]) -> str:
    """Return whole sentences of at most ``limits`` characters, the first of which no other row has."""
    most = rng.randrange(*limits)
    text = f"Entry {node_id} of {written(timestamp)[:10]}. "
    text += "".join(rng.choices(sentences, k=most // SENTENCE_CHARACTERS + 4))
    return text[: text.rfind(".", 0, most) + 1]
