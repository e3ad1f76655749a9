"""A seeded grammar of small children's stories: the training text of the default model.

A story is an opening, a plot and an ending, each a template. `[a|b]` chooses one alternative (they nest),
`{slot}` is filled from the story's facts, which are drawn once per story: that is what keeps a plot
consistent, since the thing lost at the start is the slot that is found at the end.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

Facts = dict[str, str]

FORMS = ("he", "him", "his", "self", "his_own")
PRONOUNS = {"f": ("she", "her", "her", "herself", "hers"), "m": ("he", "him", "his", "himself", "his")}
NAMES = {
    "f": "Lily Mia Anna Sue Lucy Emma Zoe Amy Sara Molly Nora Ella Rose Jane Lisa Ruby Zara Eva Alice Kate",
    "m": "Tom Ben Max Sam Tim Jack Leo Bob Finn Jake Noah Dan Oscar Billy Adam Peter Henry Luke Alex Toby",
}
PET_NAMES = {
    "f": "Bella Coco Daisy Luna Rosie Fifi Honey Molly",
    "m": "Buddy Milo Teddy Benny Spot Pip Max Rocky",
}

ANIMALS = {
    "bear": "[a warm cave|the forest]",
    "bird": "[a nest in a tall tree|the forest]",
    "bunny": "[a hole under a tree|the forest]",
    "cat": "[a small house|a big house] [by the river|on a hill|near the park]",
    "dog": "[a small house|a big house] [by the river|on a hill|near the park]",
    "duck": "a nest by the pond",
    "elephant": "a green valley",
    "fox": "[a hole under a hill|the forest]",
    "frog": "[a pond|a pond near the forest]",
    "horse": "[a red barn|a farm]",
    "lion": "[a warm cave|a green valley]",
    "monkey": "[a tall tree|the forest]",
    "mouse": "a hole [in the wall|under a tree]",
    "owl": "[an old tree|the forest]",
    "pig": "[a red barn|a farm]",
    "squirrel": "[a tall tree|the forest]",
    "turtle": "a pond",
}
MAGIC = {
    "monster": "[a dark cave|a big cave] [in the forest|on a hill]",
    "dragon": "[a big cave|a dark cave] [on a hill|in the forest|near a village]",
    "fairy": "[a flower|a tall tree] [in the forest|in a garden]",
    "giant": "[a big castle|a big house] [on a hill|near a village]",
    "king": "a [big|white] castle [on a hill|near a village]",
    "knight": "a [big|white] castle [on a hill|near a village]",
    "pirate": "[a big ship|a small house by the sea]",
    "robot": "[a big house|a small house] [on a hill|near the park]",
    "wizard": "[an old house|a tall tower] [in the forest|on a hill]",
    "prince": "a [big|white] castle [on a hill|near a village]",
    "princess": "a [big|white] castle [on a hill|near a village]",
    "queen": "a [big|white] castle [on a hill|near a village]",
    "witch": "[an old house|a small house] [in the forest|on a hill]",
}
SCARY = {kind: MAGIC[kind] for kind in ("dragon", "giant", "monster", "robot", "witch")}
SEX = {"king": "m", "knight": "m", "prince": "m", "wizard": "m", "princess": "f", "queen": "f", "witch": "f"}
CHILD_HOME = "a [small|big|white|little] house [by the river|on a hill|near the park|near the forest]"

# place, preposition, three different spots to search, in any order
PLACES = [
    ("the park", "at", ["under the bench", "behind a tree", "near the slide", "in the tall grass"]),
    ("the forest", "in", ["behind a big tree", "under the leaves", "in a bush", "behind a rock"]),
    ("the beach", "at", ["behind a rock", "under the sand", "near the water", "behind a boat"]),
    ("the garden", "in", ["under the flowers", "behind a tree", "in a bush", "in the tall grass"]),
    ("the farm", "at", ["in the hay", "behind the barn", "near the cows", "under the cart"]),
    ("the lake", "at", ["behind a rock", "near the water", "under a tree", "in the tall grass"]),
    ("the river", "at", ["behind a rock", "near the bridge", "under a tree", "in the tall grass"]),
    ("the hill", "on", ["behind a rock", "under a tree", "in the tall grass", "in a bush"]),
    ("the meadow", "in", ["in the tall grass", "under the flowers", "behind a rock", "in a bush"]),
    ("the playground", "at", ["under the bench", "behind the swings", "near the slide", "in the sand"]),
]

COLOR = "[red|blue|green|yellow|pink|purple|white|brown]"
# thing, adjective, what is done with it: past, infinitive
TOYS = [
    ("ball", f"[{COLOR}|big|little|new]", "[threw|kicked] the ball", "play with the ball"),
    ("kite", f"[{COLOR}|big|new]", "flew the kite", "fly the kite"),
    ("doll", "[pretty|little|soft|new|pink]", "played with the doll", "play with the doll"),
    ("car", f"[{COLOR}|little|fast|new]", "played with the car", "play with the car"),
    ("boat", f"[{COLOR}|little|new]", "played with the boat", "play with the boat"),
    ("drum", f"[{COLOR}|big|loud]", "played the drum", "play the drum"),
    ("balloon", f"[{COLOR}|big|shiny]", "held the balloon", "play with the balloon"),
    ("teddy bear", "[brown|soft|little|big|white]", "hugged the teddy bear", "hug the teddy bear"),
    ("train", f"[{COLOR}|little|new|fast]", "played with the train", "play with the train"),
    ("book", "[big|new|old|blue|red]", "read the book", "read the book"),
    ("bike", f"[{COLOR}|new|fast]", "rode the bike", "ride the bike"),
    ("truck", f"[{COLOR}|big|new]", "played with the truck", "play with the truck"),
]
POCKET = [
    ("hat", f"[{COLOR}|pretty|warm|funny]"),
    ("scarf", f"[{COLOR}|warm|soft|pretty]"),
    ("coin", "[shiny|gold|little]"),
    ("ring", "[shiny|gold|pretty]"),
    ("key", "[shiny|gold|old|little]"),
    ("shell", "[pretty|pink|white|shiny]"),
    ("toy", f"[{COLOR}|little|new|funny]"),
    ("stone", "[shiny|pretty|blue|green]"),
    ("bell", "[shiny|gold|little]"),
]


@dataclass(frozen=True)
class Plot:
    """Facts that belong together are rows of `rows`; `lines` are the plot's templates in order."""

    setting: str  # "out": the opening leads to a place; "home" and "night": it does not
    lines: tuple[str, ...]
    rows: tuple[Facts, ...] = ({},)
    carries: str = ""  # a key of CARE: the opening has the hero bring that thing
    weight: int = 2
    heroes: tuple[str, ...] = ("child", "animal", "magic")
    alone: bool = False  # nobody of the family comes along


def toy_rows() -> tuple[Facts, ...]:
    return tuple({"obj": o, "adj": a, "played": p, "toplay": t} for o, a, p, t in TOYS)


def pocket_rows() -> tuple[Facts, ...]:
    return tuple({"obj": o, "adj": a} for o, a in POCKET)


WHATS_WRONG = (
    '"[Why are you sad|What is wrong|Why are you crying]?" asked {F}.',
    '{F} [saw|could see] that {N} was sad. "What is wrong?" {fhe} asked.',
)
THANKS = (
    "[{N} was so happy.|{N} smiled a big smile.|{N} jumped with joy.|{N} was very happy.] "
    '["Thank you, {FV}!" {he} said.|{He} hugged {F} and said, "Thank you!"|'
    '"Thank you for your help, {FV}!" said {N}.]'
)
FRIENDS = (
    "[From that day on, {N} and {F} were [best|good] friends.|{N} and {F} became [best|good] friends.|"
    "After that day, {N} and {F} played together every day.]"
)
MEETS = (
    f"[Just then|Then|Soon|After a while], {{fnew}} [came by|came along|walked by]. [{'|'.join(WHATS_WRONG)}]"
)

LOST = Plot(
    "out",
    (
        "{He} [{played}|{played} and sang|{played} and laughed] [all morning|all afternoon|for a long time].",
        "[Then {he} was tired and sat down|Then {he} ran to see a butterfly|Then {he} stopped to eat a snack"
        "|Then {he} took a nap]. [When {he} came back|When {he} looked around|After that], the {obj} was "
        "[gone|not there]!",
        '[{N} was very sad.|{N} felt sad.|{N} started to cry.] ["Where is my {obj}?" {he} '
        "[said|cried|asked].|"
        '"Oh no! I lost my {obj}!" {he} [said|cried].]',
        "[{He}|{N}] looked {spot1}, but [it was not there|there was no {obj}]. [Then {he}|{He}] looked "
        "{spot2}, "
        "but [it was not there either|there was only a [leaf|snail|bug]].",
        MEETS,
        '["I lost my {adj} {obj}," said {N}.|"I can not find my {obj}," said {N}.] '
        '["Do not worry. I will help you," said {F}.|"Let us look for it together," said {F}.]',
        "They looked [everywhere|here and there|all around]. [At last|Finally|Soon|Then], {F} looked "
        "{spot3}. "
        '["Look! Here it is!" {fhe} [said|shouted].|"I found it!" {fhe} [said|shouted].] '
        "[It was the {adj} {obj}!|There was the {adj} {obj}!]",
        THANKS,
        "[{N} and {F} [{played}|played together] until [the sun went down|it was time to go home]."
        "|{N} let {F} {toplay} too.|{N} held the {obj} tight and went home with a smile.]",
        f"[{FRIENDS}|{{N}} [never lost the {{obj}} again|took good care of the {{obj}} after that].]",
    ),
    toy_rows(),
    "toy",
    4,
)
SHARE = Plot(
    "out",
    (
        "{He} {played} [and was very happy|and laughed|all by {self}].",
        '[Then|Soon|After a while], {fnew} came by. "[Can I {toplay} too|Can I {toplay}|May I {toplay}]?" '
        "asked {F}.",
        '["No! It is mine," said {N}.|"No, the {obj} is mine!" said {N}.|{N} shook {his} head. "No, it is '
        'mine," {he} said.] {F} was [sad|very sad] and [walked away|sat under a tree|started to cry].',
        "{N} {played} alone, but it was [not fun|not so fun] anymore. [{He} felt bad.|{He} saw that {F} was "
        "sad.|{He} felt lonely.]",
        '[{N} went to {F}.|{N} ran to {F}.|{N} walked up to {F}.] "[I am sorry, {FV}|I am sorry]. '
        '[We can share the {obj}|You can {toplay} too|Let us share the {obj}]," {he} said.',
        '{F} [smiled|was so happy|jumped with joy]. ["Thank you, {V}!" {fhe} said.|"Thank you!" said {F}.] '
        "[They {played} together|They took turns with the {obj}] [all day|until it was time to go home"
        "|until the sun went down].",
        "[{N} learned that [it is good to share|sharing is more fun|sharing makes everyone happy]."
        "|Now {N} knew that it was more fun to share.|" + FRIENDS + "]",
    ),
    toy_rows(),
    "toy",
    3,
)
STUCK = Plot(
    "out",
    (
        "[Suddenly|Then|After a while], [{N} heard a small sound|{he} heard someone cry|{N} heard a cry]. "
        '"[Help! Help|Help me, please|Please help me]!" [It was a little {a}.|{He} saw a little {a}.] '
        "The {a} was {trouble}.",
        '"[Do not worry|Do not be afraid|Do not cry], little {a}. I will help you," said {N}. '
        "[{He} thought hard.|{He} looked around.|{He} wanted to help.|]",
        "[Then {he} had an idea.|{N} had an idea.|{He} remembered the {obj}.] {He} {rescue}. "
        "[At last|Soon], the {a} was [safe|free]!",
        '[The {a} was so happy.|The {a} jumped with joy.|The {a} smiled.] "[Thank you, {V}|Thank you]! '
        '[You are very kind|You are so brave|You saved me]," said the {a}. '
        '["I am happy to help," said {N}.|{N} smiled.|]',
        "[{N} and the {a} played together until [the sun went down|it was time to go home]."
        "|The {a} gave {N} a [big hug|pretty flower|shiny stone].]",
        "[From that day on, {N} and the {a} were [best|good] friends.|{N} went home with the {obj} and felt "
        "[happy|proud].|{N} was [happy|glad] that {he} had the {obj}.]",
    ),
    (
        {
            "obj": "rope",
            "adj": "[long|strong|old]",
            "a": "[cow|pig|goat|dog]",
            "trouble": "stuck in [the mud|a deep hole]",
            "rescue": "tied the rope to a tree and pulled the {a} out",
        },
        {
            "obj": "basket",
            "adj": "[big|brown|little]",
            "a": "[bird|kitten|mouse]",
            "trouble": "stuck [in a deep hole|under a log]",
            "rescue": "put the {a} in the basket and lifted it out",
        },
        {
            "obj": "stick",
            "adj": "[long|strong|brown]",
            "a": "[bug|frog|mouse]",
            "trouble": "[in the water and could not swim|stuck in the mud]",
            "rescue": "held out the stick and the {a} climbed on it",
        },
        {
            "obj": "scarf",
            "adj": "[red|blue|long|warm]",
            "a": "[kitten|bunny|fox]",
            "trouble": "stuck in [a deep hole|the mud]",
            "rescue": "let the scarf down and pulled the {a} up",
        },
        {
            "obj": "ladder",
            "adj": "[tall|long|old]",
            "a": "[cat|kitten|squirrel]",
            "trouble": "stuck in a tall tree",
            "rescue": "put the ladder by the tree and carried the {a} down",
        },
        {
            "obj": "blanket",
            "adj": "[soft|warm|blue]",
            "a": "[bird|puppy|bunny]",
            "trouble": "[wet and very cold|cold and alone]",
            "rescue": "put the blanket around the {a} and held it close",
        },
    ),
    "thing",
    4,
)
DARK = Plot(
    "night",
    (
        "{N} was [in bed|in {his} bed], but {he} could not sleep. [It was very dark.|The room was dark.] "
        "{He} heard a [strange|loud|scary] sound. [{what_noise}|{what_noise}]",
        '[{N} was very scared.|{N} felt afraid.|{N} was afraid of the dark.] "[Is it a monster|Who is there'
        '|What is that]?" {he} [asked|said] [in a small voice|softly|].',
        '{His} {parent} [heard {him} and came|came] in. "[Do not be afraid|Do not be scared|Do not worry], '
        '{V}," said {his} {parent}. "[Take this {adj} {obj}|Here is a {adj} {obj}|I have a {adj} {obj} for '
        'you]. {why}."',
        "{N} took the {obj}. {He} {use}. [{He} felt a little better.|Now {he} felt brave.|{He} took a deep "
        "breath.]",
        "Then {N} looked [under the bed|out of the window|behind the door] and [laughed|smiled]. "
        "[It was only {cause}!|There was no monster. It was only {cause}!]",
        '["It was just {cause}," said {N}.|"I am not afraid anymore," said {N}.] {His} {parent} [smiled and '
        "said good night|gave {him} a hug|kissed {him} good night].",
        "[{N} held the {obj} and fell asleep.|{N} closed {his} eyes and slept all night.|Soon {N} was fast "
        "asleep with the {obj} next to {him}.] [{He} was not afraid of the dark anymore.|{He} had good "
        "dreams.|]",
    ),
    tuple(
        {**thing, **noise}
        for thing in (
            {"obj": "lamp", "adj": "[little|yellow]", "why": "It will give you light", "use": "turned it on"},
            {
                "obj": "teddy bear",
                "adj": "[soft|brown]",
                "why": "He will stay with you",
                "use": "hugged it tight",
            },
            {
                "obj": "blanket",
                "adj": "[soft|warm|blue]",
                "why": "It will keep you safe",
                "use": "held it tight",
            },
            {"obj": "star", "adj": "[shiny|gold]", "why": "It shines in the dark", "use": "held it up high"},
        )
        for noise in (
            {"what_noise": "Tap, tap, tap!", "cause": "[a branch|the rain|the wind]"},
            {"what_noise": "Scratch, scratch!", "cause": "[a mouse|the cat|a branch]"},
            {"what_noise": "Boom, boom!", "cause": "[the storm|the door|the wind]"},
        )
    ),
    heroes=("child", "animal"),
)
GIFT = Plot(
    "home",
    (
        "[Tomorrow was|It was|It was almost] the birthday of {his} {who}. {N} wanted to [give|make] "
        "{him_who} "
        "a [nice|special] gift. [{He} did not have any money.|{He} thought and thought.|]",
        '"I know! I will make a {adj} {obj}," said {N}. {He} {made}. [It took a long time.|{He} worked hard.|'
        "It was hard work.]",
        "[But then|Suddenly], {mishap} and the {obj} {spoiled}. [{N} was very sad.|{N} started to cry.|"
        '"Oh no!" cried {N}.]',
        '{Fnew} [came by|heard {him}|came to visit]. "[Do not cry|Do not be sad]. [We can make a new one'
        '|I will help you make a new one|We can fix it]," said {F}. [Together they worked|They worked '
        "together|They sang and worked] until the {obj} was [done|ready].",
        "[The next day|That evening|Then], {N} gave the {adj} {obj} to {his} {who}. "
        '"[Oh, what a {adj} {obj}|It is so pretty|I love it]! [Thank you, {V}|This is the best gift|You made '
        'me so happy]," said {his} {who}.',
        "[{N} was very proud.|{N} smiled and gave {him_who} a big hug.|{N} was so happy.] "
        "[They all ate cake together.|It was the best birthday.|{F} was happy too.]",
    ),
    tuple(
        {**thing, "who": who, "him_who": him}
        for thing in (
            {
                "obj": "card",
                "adj": "[pretty|big|red|pink]",
                "made": "[took some paper and drew flowers|took some paper and drew a heart]",
                "mishap": "[the cat jumped on the table|the wind came in|some water fell]",
                "spoiled": "[got wet|was torn]",
            },
            {
                "obj": "cake",
                "adj": "[big|sweet|yummy]",
                "made": "mixed [eggs and milk and flour|flour and milk and sugar]",
                "mishap": "[the dog ran in|{he} tripped|the door opened]",
                "spoiled": "fell on the floor",
            },
            {
                "obj": "hat",
                "adj": "[warm|red|blue|funny]",
                "made": "took some [red|blue|soft] cloth and made it with care",
                "mishap": "[the cat came in|the dog ran in|the wind came in]",
                "spoiled": "[got dirty|was torn]",
            },
            {
                "obj": "necklace",
                "adj": "[pretty|shiny|pink]",
                "made": "found some [shells|beads] and put them on a string",
                "mishap": "[the string broke|the cat pulled it|{he} tripped]",
                "spoiled": "[fell apart|broke]",
            },
        )
        for who, him in (("mom", "her"), ("dad", "him"), ("grandma", "her"), ("grandpa", "him"))
    ),
)
BROKEN = Plot(
    "home",
    (
        "{His} {parent} had a {adj} {obj}. {N} was [running|jumping|dancing|playing with a ball] in the "
        "[house|kitchen|room] when {he} [hit|bumped into] the table. Crash! The {obj} [fell down and broke"
        "|fell on the floor and broke].",
        '{N} was [scared|very scared|worried]. "[Oh no! What will I do|Oh no! What can I do]?" {he} said. '
        "{He} [hid the {obj} under the bed|hid behind the door|wanted to hide].",
        "[Soon|Then|Later], {his} {parent} came [home|in]. "
        '"[Where is my {obj}|What happened to my {obj}|Who broke my {obj}]?" asked {his} {parent}.',
        "{N} [felt bad|wanted to run away|looked down]. [But {he} knew it was best to tell the truth.|Then "
        "{he} "
        'decided to tell the truth.] "[I am sorry|I am so sorry]. I broke the {obj}," {he} said.',
        '{His} {parent} [was not angry|was not mad|gave {him} a hug]. "[Thank you for telling the truth|I am '
        'glad you told the truth|It was brave to tell the truth], {V}," said {his} {parent}. "[We can fix it '
        'together|Let us fix it]."',
        "They [found|got] some glue and fixed the {obj}. [Soon it was as good as new.|It looked as good as "
        "new.|Now it was even more pretty.]",
        "[{N} learned that it is best to tell the truth.|{N} felt much better.|{N} was happy and never hid "
        "anything again.] [After that, {he} [did not run|was careful] in the house.|]",
    ),
    tuple(
        {"obj": o, "adj": a}
        for o, a in (
            ("cup", "[blue|pretty|white]"),
            ("vase", "[pretty|tall|blue]"),
            ("plate", "[white|pretty|big]"),
            ("clock", "[old|big|gold]"),
            ("lamp", "[tall|old|pretty]"),
            ("pot", "[big|red|old]"),
        )
    ),
)
LEARN = Plot(
    "out",
    (
        "{He} saw {fnew} there. {F} could {skill} [very well|so well|very fast]. "
        '["I want to {skill} too," said {N}.|{N} wanted to {skill} too.]',
        "{N} tried to {skill}, but {he} {fail}. [{He} tried again, but it was too hard.|{He} tried again and "
        "again.|It was very hard.] {N} was [sad|upset|ready to give up].",
        '"[I can not do it|It is too hard|I will never {skill}]," {he} said. '
        '"[Do not give up|Try again|You can do it], {V}. [I will show you|I will help you]," said {F}.',
        '[{F} showed {N} what to do.|{F} held the hand of {N}.|{F} helped {N}.] "{tip}," said {F}. '
        "[So {N} tried once more.|{N} took a deep breath and tried again.]",
        '[This time|Little by little|At last], {he} {success}! "[I did it|Look at me|I can {skill}]!" '
        "{he} shouted. {F} [clapped|cheered|was proud].",
        "[{N} was so proud.|{N} felt very proud.|{N} was so happy.] [{He} practiced every day.|{He} thanked "
        "{F} and gave {fhim} a hug.|They had fun together all day.] [{N} learned to never give up.|"
        + FRIENDS
        + "]",
    ),
    tuple(
        {"skill": s, "fail": f, "tip": t, "success": w}
        for s, f, t, w in (
            ("swim", "[went under the water|got water in {his} nose]", "Kick your feet", "could swim"),
            ("ride a bike", "[fell down|fell off the bike]", "Look ahead and go slowly", "rode the bike"),
            ("climb a tree", "[fell down|slipped]", "Hold on tight", "climbed to the top of the tree"),
            ("jump rope", "[fell down|tripped]", "Jump when the rope comes", "jumped over the rope"),
            ("sing", "[made a funny sound|sounded like a frog]", "Take a deep breath", "sang a pretty song"),
            ("dance", "[fell down|tripped]", "Listen to the music", "danced to the music"),
            ("skate", "[fell down|slipped]", "Go slowly and bend your knees", "could skate"),
        )
    ),
    weight=3,
)
RAIN = Plot(
    "out",
    (
        "[Suddenly|Then|After a while], the sky [got dark|turned gray] and it started to rain. "
        "[{N} opened the {obj}.|{N} held the {obj} up.] [{He} did not get wet.|It kept {him} dry.]",
        "[Then {he} saw|On the way, {he} saw] {fnew} [under a tree|near a bush]. {F} was [wet and cold|very "
        'wet|cold and wet]. "[I do not have an umbrella|I am so cold|I can not go home in the rain]," '
        "[said|cried] {F}.",
        '"[Come here, {FV}|Come with me, {FV}|Do not worry]. We can share my {obj}," said {N}. '
        "They [walked|went] [together|side by side] under the {adj} {obj}.",
        "[They sang a song and jumped in the puddles.|They jumped over the puddles and laughed.|They talked "
        "and laughed.] [Soon|After a while], the rain stopped and [the sun came out|they saw a rainbow].",
        '"[Thank you, {V}|Thank you for sharing, {V}]! You are a good friend," said {F}. '
        "[{N} smiled.|{N} felt warm inside.|{N} was happy.]",
        f"[{FRIENDS}|After that, {{N}} always liked the rain.|{{N}} went home with the {{obj}} and told "
        f"{{his}} "
        "mom about {his} new friend.]",
    ),
    ({"obj": "umbrella", "adj": f"[{COLOR}|big|new]"},),
    "thing",
)
FOUND = Plot(
    "out",
    (
        "[Then|Suddenly|Soon], {he} saw something {spot1}. It was a {adj} {obj}! {N} [picked it up|took it "
        "in "
        '{his} hand]. "[Wow! It is so pretty|Wow! I want to keep it|What a nice {obj}]!" {he} said.',
        "[But then|Just then|Then], {he} heard someone cry. It was {fnew}. "
        '["Why are you crying?" asked {N}.|"What is wrong?" asked {N}.] '
        '"I lost my {obj}. [My [grandma|grandpa|mom] gave it to me|It is very special to me|I looked '
        'everywhere]," said {F}.',
        "{N} looked at the {obj}. {He} [liked it very much|wanted to keep it], but {he} knew [it was not "
        "{his_own}"
        "|what to do|it was right to give it back].",
        '"[Is this your {obj}|Is this it]? I found it {spot1}," said {N}. "[Yes! That is my {obj}|Yes, '
        "that is "
        'it]!" [said|cried] {F}. [{F} stopped crying and smiled.|{F} was so happy.|{F} jumped with joy.]',
        '"Thank you, {V}! You are very [kind|nice|good]," said {F}. [{F} gave {N} [a cookie|an apple|a hug|a '
        "flower].|They sat down and talked.|{F} asked {N} to play.] [{N} was glad that {he} gave the {obj} "
        "back.|{N} felt good inside.]",
        FRIENDS,
    ),
    pocket_rows(),
    weight=3,
)
WARNED = Plot(
    "home",
    (
        '{His} {parent} had {food} on the table. "[Do not {touch} yet|Please do not {touch}], {V}. '
        '{reason}," said {his} {parent}. [{N} said yes.|"OK," said {N}.|{N} nodded.]',
        "[But|Then {his} {parent} left the room, and] {N} [was very hungry|was very curious|could not wait]. "
        "{He} looked around and [nobody was there|saw no one]. [So {he}|{He}] {did}.",
        '"[Oh no|Oh dear|Oh]!" cried {N}. {result}.',
        "{His} {parent} [came in|ran in|heard {him}]. [{N} was sorry.|{N} started to cry.|{N} felt bad.] "
        '"[I am '
        'sorry|I am so sorry]. I did not listen," {he} said.',
        '{His} {parent} [helped {him}|gave {him} a hug|was kind]. "[It is OK|I am not mad], {V}. [Next time'
        '|Please] listen to me," said {his} {parent}.',
        "{N} [waited|sat down and waited]. [Soon|After a while|Later], it was time to eat. [They ate {food2} "
        "together|{He} shared {food2} with {his} {parent}]. It was [so good|yummy].",
        "[{N} learned to [listen|wait].|From then on, {N} always listened to {his} {parent}.|{N} never did "
        "that again.]",
    ),
    (
        {
            "food": "[a hot pie|a big pie]",
            "touch": "touch the pie",
            "reason": "It is [very|too] hot",
            "did": "touched the pie",
            "result": "{His} hand hurt because the pie was [so|too] hot",
            "food2": "the pie",
        },
        {
            "food": "[a pot of soup|some hot soup]",
            "touch": "eat the soup",
            "reason": "It is [very|too] hot",
            "did": "took a big spoon of soup",
            "result": "{His} mouth hurt because the soup was [so|too] hot",
            "food2": "the soup",
        },
        {
            "food": "[a jar of candy|a big bag of candy]",
            "touch": "eat the candy",
            "reason": "It is for [later|after dinner]",
            "did": "ate all [of|] the candy",
            "result": "{His} tummy hurt because {he} ate too much candy",
            "food2": "[some soup|an apple]",
        },
        {
            "food": "[a jar of honey|a pot of honey]",
            "touch": "open the honey",
            "reason": "It is for [later|the cake]",
            "did": "opened the honey",
            "result": "The honey fell on {him} and {he} was very sticky",
            "food2": "bread and honey",
        },
    ),
    heroes=("child", "animal"),
)
SEED = Plot(
    "home",
    (
        '{His} {parent} gave {him} a [little|tiny|small] seed. "[What is it|What will it be]?" asked {N}. '
        '"[Plant it and see|Wait and see|It is a surprise]," said {his} {parent}.',
        "{N} [dug a hole|made a hole] in the [garden|ground] and put the seed in. [Every day|Every morning], "
        "{he} gave it [water|some water].",
        "But [nothing happened|nothing came up]. [One day passed, then two, then three.|Days passed.|{N} "
        "waited "
        'and waited.] {N} was [sad|upset]. "[It will never grow|Why does it not grow]?" {he} [said|asked].',
        '"[Be patient|You must wait], {V}. [Good things take time|A seed needs time to grow]," said {his} '
        "{parent}. So {N} [waited|gave it water every day and waited].",
        "[Then one morning|One sunny morning|At last, one day], {N} saw a [little|tiny] green leaf! {He} "
        "was so "
        '[happy|excited]. "[Look! Look|Come and see|It is growing]!" {he} shouted.',
        "[It grew and grew|The plant grew taller every day] until it was {plant}. {N} {shared}.",
        '[{N} learned [to wait|to be patient].|{N} was very proud of {his} plant.|"It was good to wait," '
        "said "
        "{N}.]",
    ),
    tuple(
        {"plant": p, "shared": s}
        for p, s in (
            ("a [big|pretty] [red|yellow|pink] flower", "gave the flower to {his} {parent}"),
            ("an apple tree", "picked a red apple and shared it with {his} {parent}"),
            ("a big [orange|] pumpkin", "made a pie with {his} {parent}"),
            ("a tall sunflower", "loved to sit under the flower"),
            ("a tomato plant", "ate the red tomatoes with {his} {parent}"),
        )
    ),
)
BAKE = Plot(
    "home",
    (
        '{N} wanted to [bake|make] {food}. "[Let us make|We can make] {food}," {he} said to {his} {parent}. '
        "They got {have}. But there was no {need}!",
        '"[Oh no|Oh dear]! We have no {need}," said {N}. "[Go and ask|You can ask] our friend {F}," said '
        "{his} {parent}. "
        "So {N} [ran|walked|went] to the house of {F}.",
        'Knock, knock! {F} opened the door. "[Hello|Hi], {FV}. [Do you have some {need}|Can I have some '
        '{need}]?" '
        'asked {N}. "Yes, I have some {need}," said {F}. "[What is it for|Why do you need it]?"',
        '"We want to make {food}. [Will you help us|Do you want to help], {FV}?" said {N}. {F} [said yes|was '
        "happy|smiled]. [They went back together.|They ran back to the house.]",
        "They put [everything|it all] in a big bowl and [mixed it|mixed and mixed]. [Soon|After a while], "
        "the [house|kitchen] smelled so good. [At last, {food} was ready|Then it was time to eat].",
        '"[Yum! This is so good|This is the best {food1}|Yum, yum]!" said {F}. [They ate and laughed.|They '
        "all "
        "ate together.|They ate it all up.]",
        "[{N} was happy that {F} shared the {need}.|It was a very good day.|{N} learned that food is best "
        "when "
        "you share it.]",
    ),
    tuple(
        {"food": f"a {a} {f}", "food1": f, "have": h, "need": n}
        for f, a, h, n in (
            ("cake", "[big|sweet]", "[flour and eggs|flour and milk]", "[sugar|butter]"),
            ("pie", "[big|sweet]", "[flour and butter|flour and sugar]", "[milk|honey]"),
            ("pizza", "[big|round]", "[bread and tomatoes|flour and tomatoes]", "cheese"),
            ("soup", "[hot|big pot of]", "[water and beans|potatoes and beans]", "salt"),
        )
    ),
)
HUNGRY = Plot(
    "out",
    (
        "[Then|Soon|After a while], {he} sat down [under a tree|on a rock|in the grass] to eat. "
        "[Just then|Suddenly], {he} saw a [little|small|thin] {a}. The {a} looked [so|very] hungry.",
        '"[Hello, little {a}|Hi, little {a}]. [Are you hungry|Do you want to eat]?" asked {N}. "[Yes, I am '
        "very "
        'hungry|Yes. I did not eat all day|Yes, please]," said the {a}.',
        "{N} [thought about it|looked at the {obj}]. {He} was hungry too, but {he} was kind. "
        "{He} [gave half of the {obj} to the {a}|shared the {obj} with the {a}].",
        '"[Yum! Thank you, {V}|Thank you, {V}|Thank you]! You are so kind," said the {a}. They ate '
        "together and "
        "[talked|laughed|looked at the clouds].",
        "[Later|Then|When it was time to go], {N} [could not find the way home|did not know the way home|got "
        'lost]. "[I know the way|I can help you|Follow me]," said the {a}. The {a} [ran|walked] ahead and '
        "{N} "
        "followed.",
        '[Soon|At last], {N} was [home|safe at home]. "[Thank you, my friend|Thank you, little {a}|You '
        "helped "
        'me too]!" {he} said. [When you are kind, others are kind too.|From that day on, {N} and the {a} '
        "were "
        "[best|good] friends.|{N} was glad that {he} shared the {obj}.]",
    ),
    tuple(
        {"obj": o, "adj": a, "a": "[bird|fox|squirrel|dog|mouse|bunny]"}
        for o, a in (
            ("sandwich", "[big|yummy]"),
            ("cookie", "[big|sweet|yummy]"),
            ("apple", "[red|big|green]"),
            ("cake", "[little|sweet|yummy]"),
            ("bread", "[warm|fresh]"),
            ("carrot", "[big|orange]"),
        )
    ),
    "food",
    alone=True,
    weight=3,
)
RACE = Plot(
    "out",
    (
        'There {he} saw {fnew}. "[Let us have a race,|Do you want to race?]" said {F}. '
        '"[OK! Let us run to the {goal}|Yes! First one to the {goal} wins]," said {N}.',
        '"[One, two, three, go|Ready, set, go]!" {F} shouted. They ran [very fast|as fast as they could]. '
        "{N} "
        "was [first|ahead|in front].",
        "[Suddenly|But then], {F} [tripped on a rock|slipped in the mud|fell down]. "
        '"[Ouch! My leg hurts|Ouch! My foot hurts]!" {fhe} cried.',
        "{N} [stopped|looked back]. {He} could [win|win the race], but {he} [wanted to help|did not want "
        "to leave "
        "{F}]. {He} ran back [to {F}|to help].",
        '"[Are you OK|Can you get up], {FV}?" asked {N}. {He} [helped {F} up|held out {his} hand|gave '
        "{fhim} a "
        'hug]. ["Thank you, {V}," said {F}.|"You are so kind," said {F}.]',
        'They walked to the {goal} [together|side by side|hand in hand]. ["We both win!" said {N}.|"We won '
        'together!" said {F}.|They both laughed.]',
        "[{N} learned that [friends are more important than winning|it is better to help than to win].|"
        + FRIENDS
        + "]",
    ),
    ({"goal": "[big tree|big rock|fence|bridge|gate]"},),
    alone=True,
)
TREASURE = Plot(
    "out",
    (
        "{Spot1}, {he} [saw|found] an old map. There was a [red|big] X on it. "
        '"[It is a treasure map|Wow! A treasure map]!" said {N}. [{He} was so excited.|]',
        '{He} ran to {his} friend {F} and showed {fhim} the map. "[Let us find the treasure|We must find '
        'it|Come with me]!" '
        "said {N}. {F} took a [big|strong] shovel and they [went|set off].",
        "They walked [over the bridge|past the old tree|up the hill] and [past the lake|through the tall "
        "grass|around a big rock]. [It was a long way.|{F} was tired, but {N} helped {fhim}.|They were a "
        "little "
        "scared.]",
        "[At last|Finally], they came to the X. They dug and dug with the shovel. [Clunk|Bump]! "
        "[There was a {box}!|They found a {box}!] ",
        '{N} opened the {box}. It was full of {loot}! "[Wow! Look at that|We are rich|We did it]!" said {F}.',
        "[They shared the {loot}.|They gave some of the {loot} to all their friends.|They took the {loot} "
        "home "
        'and shared with everyone.] [{N} kept the map and smiled.|It was the best day ever.|"The best '
        "treasure "
        'is a good friend," said {N}.]',
    ),
    tuple(
        {"loot": loot, "box": "[big box|gold box|wooden box]"}
        for loot in ("gold coins", "candy", "toys", "shiny stones", "old books")
    ),
    alone=True,
)
LOST_WAY = Plot(
    "out",
    (
        "{He} saw a [pretty|blue|yellow] {bug} and [ran after it|followed it]. The {bug} flew [far "
        "away|farther "
        "and farther]. {N} [ran and ran|went on and on].",
        "[When {he} stopped, {he}|Then {he} looked around and] did not know where {he} was. [It was getting "
        'dark.|It was very quiet.] {N} was [lost|scared]. "[Where is my home|How can I get home]?" {he} '
        "cried.",
        MEETS,
        '"I am lost. I want to go home," said {N}. "[Do not be afraid|Do not cry|Do not worry]. [I know '
        "the way|I "
        'can show you the way|I will take you home]," said {F}.',
        "{F} [held the hand of {N}|walked with {N}]. They went [over the bridge|past the river|around the "
        "lake] and [through the forest|up the hill|down the road]. [They sang a song so that they were not "
        "afraid.|The moon gave them light.|]",
        '[At last|Soon|Finally], {N} saw {his} house! "[I am home|I see my house|There it is]!" {he} '
        "shouted. "
        "{His} mom [ran out and hugged {him}|was so happy to see {him}].",
        '"Thank you, {FV}," said {N}. [{His} mom gave {F} a [cookie|big cake|cup of milk].|They all ate '
        "dinner "
        "together.] [{N} never went so far away again.|{N} promised to stay close to home.|" + FRIENDS + "]",
    ),
    ({"bug": "[butterfly|bird|bee|balloon]"},),
    alone=True,
    heroes=("child", "animal"),
)
SICK = Plot(
    "home",
    (
        "{N} wanted to play with {his} friend {F}, but {F} [was sick|was sick in bed|had a cold]. [{N} was "
        "sad.|{N} felt sorry "
        "for {F}.|]",
        '"[I want to help {F},|What can I do for {F}?|I will make {F} happy,]" {N} [said|thought]. {He} '
        "{got}.",
        "{N} [put the {obj} in a basket|took the {obj}] and [walked|went] to {F}. [On the way, it was "
        "windy and cold, but {he} did not stop.|The way was long, but {he} did not stop.|{He} walked with "
        "care.]",
        'Knock, knock! "[Who is there|Come in]," said {F} [in a small voice|softly]. '
        '"[It is me, {N}|Hello, {FV}]! I have [some|] {obj} for you," said {N}.',
        '{F} smiled. {thing_helps}. ["Thank you, {V}. I feel better now," said {F}.|"You are a good friend," '
        "said {F}.]",
        "{N} [sat by the bed and told a [funny|long] story|sang a song for {F}]. They [laughed|talked] "
        "until [it "
        "was time to go|the sun went down].",
        "[The next day|Soon|After a few days], {F} was [well again|not sick anymore]. [They went out to play "
        "together.|{F} ran to {N} and they played all day.] [{N} was so happy.|They were best friends.]",
    ),
    (
        {
            "obj": "soup",
            "got": "made some [hot|warm] soup",
            "thing_helps": "{Fhe} ate the soup and felt warm",
        },
        {
            "obj": "flowers",
            "got": "picked some [pretty|yellow|red] flowers",
            "thing_helps": "{Fhe} smelled the flowers",
        },
        {"obj": "cookies", "got": "baked some [sweet|yummy] cookies", "thing_helps": "{Fhe} ate two cookies"},
        {
            "obj": "books",
            "got": "found some [old|funny] books",
            "thing_helps": "They read the books together",
        },
        {"obj": "apples", "got": "picked some [red|sweet] apples", "thing_helps": "{Fhe} ate an apple"},
    ),
)
LONELY = Plot(
    "magic",
    (
        "{N} was [sad|lonely|very lonely] because {he} had no friends. [Everyone was afraid of "
        "{him}.|Everyone "
        "ran away when {he} came.|Nobody wanted to play with {him}.]",
        'One day, {N} went to the village. "[Hello! Do you want to play|Will you be my friend]?" {he} asked. '
        '"[Help! It is a {kind}|Run! A {kind}]!" the [people|children] cried and ran away. {N} [cried|went '
        "home "
        "and cried|felt so sad].",
        "[Then|The next day|One cold night], [there was a big storm|the wind was strong and cold]. "
        "{problem}. "
        "[The people did not know what to do.|Nobody could help.|The children were cold and scared.]",
        '{N} [saw it|heard the cries] and [came|ran to the village]. "I can help you," {he} said. {He} '
        "{solved}.",
        '["Thank you, {kind}!" the people [said|shouted].|The people were [so happy|not afraid anymore].] A '
        '[little|brave] [girl|boy] [came up to|hugged] {N}. "[You are kind|You are not scary]. I want to be '
        'your friend," the child said.',
        "[{N} smiled a big smile.|{N} was so happy that {he} danced.] [From that day on|After that day], "
        "{N} [was "
        "never lonely again|had many friends|played with the children every day].",
    ),
    (
        {"problem": "The [big|old] bridge broke", "solved": "[fixed the bridge|made a new bridge]"},
        {"problem": "The lights in the village went out", "solved": "[made a big light|lit all the lamps]"},
        {"problem": "A big tree fell on a house", "solved": "[lifted the tree|pulled the tree away]"},
        {"problem": "A little dog was stuck on a roof", "solved": "[picked the dog up|brought the dog down]"},
    ),
    weight=3,
    heroes=("scary",),
)
PLOTS = (
    *(LOST, SHARE, STUCK, DARK, GIFT, BROKEN, LEARN, RAIN, FOUND),
    *(WARNED, SEED, BAKE, HUNGRY, RACE, TREASURE, LOST_WAY, SICK, LONELY),
)

LOVED = (
    "[{He} loved to [play|sing|run|play outside|dance|read books|laugh|help others].|"
    "{He} was [kind|happy|brave|very kind|very curious|always happy].|"
    "{He} was very [kind|curious|brave] and loved to [play|sing|run|dance|help others].|]"
)
TRAIT = (
    f"[{{He}} lived in {{home}}[| with {{his}} mom and dad| with {{his}} family].|{LOVED}|{LOVED}|{LOVED}]"
)
ONCE = (
    "[[Once upon a time|Once upon a time|Once upon a time|Once|A long time ago|One day], there was {intro}."
    f" {TRAIT}|There was once {{intro}}. {TRAIT}|{{was}} {TRAIT}|{{intro}} lived in {{home}}. {LOVED}"
    f"|Once upon a time, in {{home}}, there lived {{intro}}. {LOVED}]"
)
DAY = "One [day|day|sunny day|morning|sunny morning|warm day|afternoon]"
WITH = "{with}"
WENT = "[went|walked|ran|went]"
ARRIVALS = (
    f"{ONCE} {DAY}, {{N}} {WENT} to {{place}}{WITH}.",
    f"{ONCE} {DAY}, {{he}} {WENT} to {{place}}{WITH}.",
    f"{ONCE} {DAY}, {{N}} was {{at}} {{place}}{WITH}.",
    f"{{N}} {WENT} to {{place}}{WITH}. [It was a [sunny|warm|nice|windy] day.|The sun was "
    f"[bright|warm].|{TRAIT}]",
    f"{DAY}, {{N}} {WENT} to {{place}}{WITH}. [The sun was [bright|warm].|]",
    f"It was a [sunny|warm|nice|beautiful] [day|morning]. {{N}} [{WENT} to|was {{at}}] {{place}}{WITH}.",
    f"{{N}} [loved to go|liked to go] to {{place}}. {DAY}, {{he}} {WENT} there{WITH}.",
    f"{{N}} was {{at}} {{place}}{WITH}. [It was a [sunny|warm|nice] day.|]",
)
BRINGS = (
    " [{He}|{N}] [took|brought|had] {his} {adj} {obj} with {him}.",
    " [{He}|{N}] [took|brought] {his} {adj} {obj}.",
    " [{He}|{N}] had a {adj} {obj} [with {him}|in {his} hands].",
)
OWNS = (
    f"{ONCE} {{N}} had a {{adj}} {{obj}}. {{care}} {DAY}, {{N}} took the {{obj}} to {{place}}.",
    f"{{N}} had a {{adj}} {{obj}}. {{care}} {DAY}, {{he}} took the {{obj}} to {{place}}{WITH}.",
    f"{{N}} got a {{adj}} {{obj}} from {{his}} [mom|dad|grandma|grandpa]. {DAY}, {{he}} took the {{obj}} "
    f"to {{place}}.",
    "{N} took {his} {adj} {obj} to {place}" + WITH + ". [It was a [sunny|warm|nice] day.|]",
    f"{DAY}, {{N}} took {{his}} {{adj}} {{obj}} to {{place}}{WITH}.",
)
CARE = {
    "toy": "[It was {his} favorite toy.|{He} loved the {obj} very much.|{He} took it everywhere.]",
    "thing": "[It was very useful.|{He} took it everywhere.|It was a gift from {his} "
    "[grandma|grandpa|mom|dad].]",
    "food": "[It looked so good.|{He} was very hungry.|It smelled so good.]",
}
AT_HOME = (
    f"{ONCE} {DAY}, {{N}} was at home.",
    f"{ONCE} {DAY}, {{he}} was at home{WITH}.",
    f"{ONCE}",
    f"{DAY}, {{N}} was at home{WITH}.",
    f"It was a [rainy|cold|quiet|nice|sunny] [day|morning]. {{N}} was at home{WITH}.",
    "{N} was at home. [It was a [rainy|cold|quiet|nice] day.|]",
)
AT_NIGHT = (
    f"{ONCE} One [night|cold night|windy night],",
    "One [night|cold night|windy night|dark night],",
    "It was [late at night|a dark night|a cold night].",
    "It was night and the moon was [bright|high in the sky].",
)
MAGIC_HOME = (ONCE, ONCE, "{N} lived in {home}.", "{N} lived all alone in {home}.")


def person(rng: random.Random, group: str) -> Facts:
    """Draw one character: reference, form of address, introduction, home and pronouns."""
    kinds = {"animal": ANIMALS, "magic": MAGIC, "scary": SCARY}.get(group, {})
    kind = rng.choice(sorted(kinds)) if kinds else ""
    sex = SEX.get(kind) or rng.choice("fm")
    kind = kind or {"f": "girl", "m": "boy"}[sex]
    pool = NAMES if group == "child" else PET_NAMES
    name = rng.choice(pool[sex].split())
    size = "[little|little|little|small|young|happy|kind|nice]"
    named = group == "child" or rng.random() < 0.5
    return {
        "N": name if named else f"the {kind}",
        "V": name if named else f"little {kind}" if group == "animal" else kind,
        "intro": f"a {size} {kind} named {name}" if named else f"a {size} {kind}",
        "was": f"{name} was a {size} {kind}." if named else f"There was a {size} {kind}.",
        "home": kinds.get(kind, CHILD_HOME),
        "kind": kind,
        **dict(zip(FORMS, PRONOUNS[sex], strict=True)),
    }


def friend(rng: random.Random, hero: Facts) -> Facts:
    """A second character whose name and kind differ from the hero's; slots as the hero's, prefixed F or f."""
    while True:
        other = person(rng, rng.choice(("child", "child", "animal")))
        if other["N"] != hero["N"] and (other["kind"] != hero["kind"] or other["kind"] in ("girl", "boy")):
            break
    facts = {"F": other["N"], "FV": other["V"], "fintro": other["intro"]}
    return facts | {"f" + key: other[key] for key in ("he", "him", "his", "kind")}


def surroundings(rng: random.Random) -> Facts:
    place, at, spots = rng.choice(PLACES)
    one, two, three = rng.sample(spots, 3)
    return {"place": place, "at": at, "spot1": one, "spot2": two, "spot3": three}


def opening(rng: random.Random, plot: Plot) -> str:
    """The template that introduces the hero and leads to where the plot starts."""
    if plot.setting == "out" and plot.carries:
        own = rng.random() < 0.5
        return rng.choice(OWNS) if own else rng.choice(ARRIVALS) + rng.choice(BRINGS)
    return rng.choice(
        {"out": ARRIVALS, "home": AT_HOME, "night": AT_NIGHT, "magic": MAGIC_HOME}[plot.setting]
    )


def choose(text: str, rng: random.Random) -> str:
    """Resolve every `[a|b]`, innermost first."""
    while "[" in text:
        text = re.sub(r"\[([^\[\]]*)\]", lambda m: rng.choice(m[1].split("|")), text, count=1)
    return text


def settle(facts: Facts, rng: random.Random) -> Facts:
    """Resolve the alternatives inside the facts once, so that a fact reads the same everywhere in a story."""
    return {key: choose(value, rng) for key, value in facts.items()}


def fill(text: str, facts: Facts, rng: random.Random) -> str:
    """Replace slots until none is left; a capitalised slot without a fact of its own is the plain one."""
    text = choose(text, rng)
    while "{" in text:
        text = choose(re.sub(r"\{(\w+)\}", lambda m: lookup(facts, m[1]), text), rng)
    return text


def lookup(facts: Facts, slot: str) -> str:
    if slot in facts:
        return facts[slot]
    plain = facts[slot[0].lower() + slot[1:]]
    return plain[0].upper() + plain[1:]


def tidy(text: str) -> str:
    """Single spaces and none before a mark, "an" before vowels, capitals at the start of sentences and of "
    "quotations."""
    text = re.sub(r"\s+([.,!?]|$)", r"\1", re.sub(r"\s+", " ", text)).strip()
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return re.sub(r'(^|[.!?] |[.]" |(?:^| )")([a-z])', lambda m: m[1] + m[2].upper(), text)


def draw_facts(rng: random.Random, plot: Plot) -> Facts:
    """Everything a story of this plot is about, each fact decided."""
    groups = [g for g in ("child", "child", "animal", "magic", "scary") if g in plot.heroes]
    hero = person(rng, rng.choice(groups))
    facts = hero | friend(rng, hero) | surroundings(rng) | rng.choice(plot.rows)
    facts["fnew"] = rng.choice(("{his} friend {F}", facts["fintro"], facts["fintro"]))
    facts["parent"] = rng.choice(("mom", "dad", "grandma", "grandpa"))
    facts["with"] = "" if plot.alone else "[| with {his} {parent}]"
    facts["care"] = CARE.get(plot.carries, "")
    facts = settle(facts, rng)
    return facts if facts.get("a") != hero["kind"] else draw_facts(rng, plot)


def story(rng: random.Random) -> str:
    """One whole story."""
    plot = rng.choices(PLOTS, [p.weight for p in PLOTS])[0]
    facts = draw_facts(rng, plot)
    return tidy(fill(" ".join((opening(rng, plot), *plot.lines)), facts, rng))


def stories(seed: int) -> Iterator[str]:
    """An endless stream of stories; the same seed gives the same stream."""
    rng = random.Random(seed)
    while True:
        yield story(rng)


if __name__ == "__main__":
    stream = stories(1)
    for _ in range(10):
        print(next(stream), end="\n\n")
