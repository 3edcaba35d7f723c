"""Dialogues of two people over many sessions, written by hand, with questions whose evidence is one turn each.

Each is asked in words of its talk, and again in others, as somebody does who was not there. Chatter, the same again and
again, stands between the talks.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from redismem.search import Document
from tests.conversations import Question, Talk

PAIRS = (("Ines", "Tomas"), ("Greta", "Pavel"), ("Noor", "Silas"), ("Wanda", "Otto"))
SESSIONS = 20
TURNS = 20

# "A:" and "B:" speak; "?2" asks for what stands in the third line of its talk, and "!2" does so in other words
TALKS = """
A: The ferry was four hours late, so we missed the last tram.
B: And then? Don't tell me you walked.
A: All nine kilometres, in the dark, with the suitcases. My heels are bleeding.
?0 Why did {A} miss the last tram?
!0 Why did {A} miss public transport?
?2 How many kilometres did {A} walk with the suitcases?
!2 How far did {A} have to go on foot?

B: I finally handed in my notice today.
A: After six years! What did Marta say?
B: She offered me a raise, but I've already signed with the observatory.
?0 When did {B} hand in the notice?
!0 When did {B} resign?
?2 Where will {B} work after leaving Marta?
!2 Who is {B}'s next employer?

A: Our beehive is empty. I opened it this morning and nobody was home.
B: Oh no. Mites again?
A: The inspector thinks it was pesticide from the rape field next door.
?0 When did {A} find the beehive empty?
!0 What happened to {A}'s insects?
?2 Whom does the inspector blame for {A}'s dead bees?
!2 What does the expert think caused the loss of {A}'s colony?

B: Do you remember the piano in the cellar? A man came on Sunday and took it.
A: Took it, or bought it?
B: He gave us two crates of plums for it. Fair trade, if you heard how it sounded.
?2 What did {B} get for the piano?
!2 What did {B} get in exchange for the instrument?
?0 On which day was {B}'s piano taken away?
!0 When was {B}'s old instrument picked up?

A: I'm off gluten now. The blood test came back.
B: So no more of your sourdough?
A: I gave the starter to my uncle. It felt like giving away a pet.
?0 What can {A} not eat any more?
!0 Which food can {A} no longer tolerate?
?2 Who has {A}'s sourdough starter now?
!2 Who took over {A}'s baking culture?

B: The marathon was a disaster, I had to stop at kilometre 31.
A: Cramps?
B: A dog ran between my legs. I've got a splint on two fingers.
?0 Where did {B} stop in the marathon?
!0 How far did {B} get in the long-distance run?
?2 What ran into {B} during the race?
!2 What caused {B}'s accident?

A: [photo of a kitchen with half of its tiles torn off] This is how we live now.
B: Since when are you renovating?
A: Since a pipe burst behind the sink. The plumber said two weeks, that was in autumn.
?2 Why is {A} renovating the kitchen?
!2 Why is {A}'s home a building site?
?0 What does {A}'s photo of the kitchen show?
!0 What does the picture of {A}'s home show?

B: My niece got into the conservatory, for the oboe!
A: You must be so proud. Where will she live?
B: With me, in the attic room. I'm buying earplugs.
?0 Which instrument does {B}'s niece play?
!0 What does {B}'s young relative play?
?2 Where will {B}'s niece live?
!2 Where is the young musician going to stay?

A: They turned down my visa for the second time.
B: What's the reason now?
A: A stamp was missing on the birth certificate. I could scream.
?2 What was missing in {A}'s visa application?
!2 What was wrong with {A}'s paperwork?
?0 How often was {A}'s visa refused?
!0 How often has {A}'s request been rejected?

B: I've been learning sign language on Tuesdays.
A: What made you start?
B: There's a deaf colleague in my new team, and lunch was so quiet for her.
?0 On which day does {B} learn sign language?
!0 On which day does {B} take lessons?
?2 Why did {B} start to learn sign language?
!2 Why does {B} want to talk with the hands?

A: We sold the caravan.
B: But you two loved that thing!
A: Our knees don't. From now on it's hotels with an elevator.
?0 What did {A} sell?
!0 Which vehicle did {A} get rid of?
?2 Where does {A} stay on holiday instead of the caravan?
!2 What kind of accommodation does {A} prefer these days?

B: The eclipse was right above us, three minutes of it.
A: Lucky you! We had nothing but clouds.
B: The cows lay down in the meadow, all of them at once.
?0 How long did {B} see the eclipse?
!0 How long did the darkness last at {B}'s place?
?2 What did the cows do during the eclipse?
!2 How did the animals react?

A: I'm reading a biography of a lighthouse keeper, eight hundred pages.
B: Sounds like something to fall asleep to.
A: It's funnier than you think. He kept a goose as a secretary.
?0 What kind of biography is {A} reading?
!0 What is the book about that {A} enjoys?
?2 Which animal did the lighthouse keeper have?
!2 What pet did the man in {A}'s book have?

B: Guess who's allergic to her own cat.
A: No! What are you going to do?
B: Drops under the tongue, every day for three years, says the specialist.
?2 What does {B} take against the cat allergy?
!2 How is {B} treated for what the pet causes?

A: My grandfather's watch stopped yesterday, at ten past four.
B: Can it be repaired?
A: There's one man in Ghent who still makes that spring. It'll cost more than my car.
?0 When did the watch of {A}'s grandfather stop?
!0 When did {A}'s heirloom break?
?2 In which city can {A}'s watch be repaired?
!2 Where does the craftsman live who could fix it?

B: We adopted an old greyhound on Friday.
A: How old is old?
B: Eleven, and he was a racer. Now he runs to the sofa and that's it.
?0 What kind of dog did {B} adopt?
!0 What breed is {B}'s pet?
?2 How old is {B}'s greyhound?
!2 What did the pet do before {B} got it?

A: The court decided: the tree stays.
B: After all that shouting over the fence!
A: He has to pay my lawyer as well, nearly two thousand.
?0 What did the court decide about {A}'s tree?
!0 How did {A}'s quarrel with the neighbour end?
?2 How much does the neighbour have to pay {A}'s lawyer?
!2 How much were {A}'s legal fees?

B: I can't believe they cut the night train to Zagreb.
A: You took that one every month, didn't you?
B: To see my mother, yes. Now it's fourteen hours by bus.
?2 Whom did {B} visit with the night train?
!2 Whom does {B} travel to see regularly?
?0 Which train that {B} took was cut?
!0 Which connection was discontinued?

A: I won the regional prize for my goat cheese!
B: I told you! Which one, the one with ash?
A: No, the one with walnut leaves. The jury said it tastes like October.
?0 What did {A} win a prize for?
!0 What did {A} receive an award for?
?2 Which leaves are around {A}'s prize-winning cheese?
!2 What is {A}'s award-winning product wrapped in?

B: Our basement flooded while we were at the wedding.
A: Was much of it ruined?
B: All the negatives. Thirty years of my photographs.
?0 Where was {B} when the basement flooded?
!0 Where was {B} when the water came in?
?2 What was ruined in {B}'s flooded basement?
!2 What did {B} lose in the water?

A: I started as a bell ringer, can you imagine?
B: In church? You?
A: It's pure mathematics, and it's good for the shoulders. Wednesday evenings.
?0 What did {A} start to do in church?
!0 What unusual hobby did {A} take up?
?2 On which evening does {A} ring the bells?
!2 When does {A} practise the new hobby?

B: The twins refuse to speak Polish with me now.
A: Give them time. Mine came back to it.
B: I've promised them a kitten for a month of it. I know, bribery.
?0 Which language do {B}'s twins refuse to speak?
!0 Which tongue won't {B}'s children use?
?2 What did {B} promise the twins?
!2 What reward did {B} offer the kids?

A: My eyesight is getting worse, I drove past our own house.
B: When did you last have it checked?
A: Last Monday. It's a cataract, they'll operate in spring.
?2 When will {A}'s eyes be operated on?
!2 What is the diagnosis for {A}'s sight?

B: I painted the boat. It's orange now.
A: Orange! What was wrong with white?
B: Nobody saw us in the fog, and a tanker nearly did the rest.
?0 In which colour did {B} paint the boat?
!0 What does {B}'s vessel look like?
?2 Why did {B} paint the boat orange?
!2 Why did {B} choose something brighter?

A: The school asked me to teach chess to the little ones.
B: You haven't got the patience.
A: They made me laugh for an hour. One of them calls the bishop "the pencil".
?0 What does {A} teach at school?
!0 Which game does {A} teach children?
?2 What do the chess children call the bishop?
!2 What nickname did a pupil give to a chess piece?

B: I've moved the wedding to the ninth of September.
A: Was the castle booked?
B: Its roof came down in the storm. We're taking the botanical garden.
?0 To which date did {B} move the wedding?
!0 When will the ceremony of {B} take place?
?2 Where will {B}'s wedding be instead of the castle?
!2 Where will {B} celebrate the marriage?

A: I quit coffee, eleven days already.
B: And what do you have in the morning?
A: Roasted chicory. It tastes like a wet campfire.
?0 How long has {A} been without coffee?
!0 Which drink did {A} give up?
?2 What does {A} drink instead of coffee?
!2 What is {A}'s substitute drink?

B: Somebody stole the wheels of my bicycle. Only the wheels.
A: Where was it parked?
B: Outside the police station, that's the best part.
?0 What was stolen from {B}'s bicycle?
!0 What was taken by {B}'s thieves?
?2 Where had {B} parked the bicycle?
!2 Where did the theft at {B}'s happen?

A: I'm translating a cookbook from Georgian.
B: Since when do you know Georgian?
A: My first husband was from Tbilisi. It was good for something after all.
?0 What kind of book does {A} translate?
!0 What is {A} working on?
?2 Why does {A} know Georgian?
!2 How did {A} come to know that language?

B: The baby came three weeks early, during the power cut!
A: Is everybody well?
B: Mother and daughter both. The midwife held a torch between her teeth.
?0 When was the baby born in {B}'s family?
!0 Under which circumstances did {B}'s relative give birth?
?2 What did the midwife hold during the power cut?
!2 How was there light for the birth?

A: They want to build a motorway through the wetland.
B: The one with the cranes?
A: We've got six thousand signatures already. I stand at the market every Saturday.
?2 How many signatures against the motorway has {A} got?
!2 How many people support {A}'s petition?
?0 What is to be built through the wetland?
!0 What is {A} protesting against?

B: I dropped my phone into the crevasse. On the first day!
A: Please tell me you had a map.
B: The guide had one. I've never looked at so many stars.
?0 Where did {B} drop the phone?
!0 Where did {B} lose the mobile?

A: I've inherited a vineyard, of all things.
B: You don't even drink!
A: My godmother had no children. Half a hectare, and it's on a slope like a roof.
?2 From whom did {A} inherit the vineyard?
!2 Who left {A} the land?
?0 What did {A} inherit?
!0 Which property did {A} come into?

B: My band has split up.
A: Because of the drummer?
B: Because of the tax office. We hadn't filed anything since the second album.
?2 Why did {B}'s band split up?
!2 Why don't {B}'s musicians play together any more?

A: The doctor put me on a diet of soup until Thursday.
B: What on earth did you do?
A: Wisdom teeth, all four at once. I look like a hamster.
?2 Which teeth did {A} have out?
!2 Which operation did {A} undergo?
?0 Until when may {A} eat only soup?
!0 How long does {A} have to live on liquids?

B: I'm building a telescope with the boy from the third floor.
A: Does he still have the stutter?
B: Not when he talks about Saturn. He'll be an astronomer, mark my words.
?0 With whom does {B} build a telescope?
!0 What is {B} constructing with a young neighbour?
?2 Which planet does the boy with the telescope like?
!2 What is the child fond of that {B} helps?
"""
CHATTER = """
How lovely, {other}!
You're too kind, {other}.
It has been raining for days here, I'm growing moss.
How are things at home?
All fine, thanks. Loud, but fine.
We really should meet before the holidays, {other}.
I had so much to do last week, I forgot what day it was.
Time flies, doesn't it?
I made pancakes for everybody, half of them burnt.
I can't remember when I last had a whole weekend to myself.
And how did you feel about that?
Relieved, to be honest.
I'm thinking of taking up something new, maybe singing.
Why not! You've got the voice for it, {other}.
The people upstairs had a party until three in the morning.
I went for a walk by the river, that always helps.
Did you see the film they were all talking about?
I fell asleep in the middle of it.
[photo of a cup of tea on a window sill] My whole afternoon.
My boss wants everything at once, as ever.
Sorry, the phone rang. Where were we?
Never mind, {other}, tell me more.
I bought far too many books again.
One can never have too many of those.
The train was full, I stood all the way.
My sister sends her love.
Give her mine. It's been ages.
We're trying to save money this year. Trying.
The children had a concert, I may have shed a tear.
You always know what to say, {other}.
""".strip().splitlines()


def dialogue(seed: int, *, other_words: bool = False) -> Talk:
    """What a pair of people said, and what can be asked about it, in words of the talk or in other ones."""
    draw, people = random.Random(seed), PAIRS[seed % len(PAIRS)]
    talks = [talk.splitlines() for talk in TALKS.strip().split("\n\n")]
    draw.shuffle(talks)
    documents, questions = list[Document](), list[Question]()
    start = datetime(2023, 1, 5, 18, tzinfo=UTC)
    for session in range(SESSIONS):
        start += timedelta(days=draw.randint(4, 17))
        turns = list(_session(draw, people, talks[session::SESSIONS], "!" if other_words else "?"))
        for number, (speaker, text, asked) in enumerate(turns):
            one = f"D{session}:{number}"
            at = (start + timedelta(seconds=40 * number)).timestamp()
            documents.append(Document(one, text, at, f"s{session}", speaker))
            questions += (Question(question, one) for question in asked)
    return documents, questions


def _session(
    draw: random.Random, people: tuple[str, str], talks: list[list[str]], mark: str
) -> Iterator[tuple[str, str, list[str]]]:
    """Who says what, and what is asked about it."""
    idle = TURNS - sum(len(_said(talk)) for talk in talks)
    for number, talk in enumerate([*talks, []]):
        now = idle if number == len(talks) else draw.randint(0, idle)
        idle -= now
        for turn in range(now):
            speaker = turn % 2
            yield people[speaker], draw.choice(CHATTER).format(other=people[1 - speaker]), []
        first = draw.randint(0, 1)
        names = {"A": people[first], "B": people[1 - first]}
        asked = [line.partition(" ") for line in talk]
        for place, line in enumerate(_said(talk)):
            about = [question.format(**names) for where, _, question in asked if where == f"{mark}{place}"]
            yield names[line[0]], line[3:].format(**names), about


def _said(talk: list[str]) -> list[str]:
    return [line for line in talk if line[0] in "AB"]
