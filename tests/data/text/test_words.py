# ruff: noqa: RUF001 (letters and punctuation of many scripts are meant as they stand)
"""Words of many scripts stay whole, and sentences come back as they were written."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.data.text import words
from cnn_jax.data.text.pairs import normalize
from cnn_jax.data.text.vocabulary import Vocabulary
from cnn_jax.metrics.translation import TextMetrics, tokenizer_for

# By script: a sentence with the usual spacing, and its words.
SENTENCES = {
    "English": ('He said, "It\'s 3.5 km (or so)": go!', "He said It 's 3.5 km or so go"),
    "German": ("„Grüß Gott“, sagte sie – um 10:30.", "Grüß Gott sagte sie um 10:30"),
    "French": ("Bonjour ; l'été « est » là !", "Bonjour l 'été est là"),
    "French with no-break spaces": (
        "Vraiment\u00a0? «\u202fOui\u202f»\u00a0; merci.",
        "Vraiment Oui merci",
    ),
    "Spanish": ("¿Qué tal? ¡Muy bien!", "Qué tal Muy bien"),
    "Yoruba": ("Mo fẹ́ ọmọ náà; ó dára.", "Mo fẹ́ ọmọ náà ó dára"),
    "Vietnamese": ("Tôi không hiểu tiếng Việt.", "Tôi không hiểu tiếng Việt"),
    "Russian": ("Я не знаю, что сказать…", "Я не знаю что сказать"),
    "Ukrainian": ("Це м'яке об’єднання.", "Це м'яке об’єднання"),
    "Greek": ("Τι κάνεις; Καλά, ευχαριστώ.", "Τι κάνεις Καλά ευχαριστώ"),
    "Armenian": ("Ի՞նչ կա, բարև ձեզ։", "Ի՞նչ կա բարև ձեզ"),
    "Georgian": ("გამარჯობა, როგორ ხარ?", "გამარჯობა როგორ ხარ"),
    "Hebrew": ('בְּרֵאשִׁית בָּרָא; צה״ל וארה"ב.', 'בְּרֵאשִׁית בָּרָא צה״ל וארה"ב'),
    "Arabic": ("قَالَ الرَّجُلُ: مَرْحَبًا، كَيْفَ؟", "قَالَ الرَّجُلُ مَرْحَبًا كَيْفَ"),
    "Persian": ("من می‌خواهم بروم.", "من می‌خواهم بروم"),
    "Urdu": ("میں گھر جاتا ہوں۔", "میں گھر جاتا ہوں"),
    "Hindi": ("वह हमेशा पानी चाहता है।", "वह हमेशा पानी चाहता है"),
    "Bengali": ("আমি বাংলায় কথা বলি।", "আমি বাংলায় কথা বলি"),
    "Punjabi": ("ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ।", "ਮੈਂ ਪੰਜਾਬੀ ਬੋਲਦਾ ਹਾਂ"),
    "Gujarati": ("હું ગુજરાતી બોલું છું.", "હું ગુજરાતી બોલું છું"),
    "Tamil": ("நான் தமிழ் பேசுகிறேன்.", "நான் தமிழ் பேசுகிறேன்"),
    "Telugu": ("నేను తెలుగు మాట్లాడతాను.", "నేను తెలుగు మాట్లాడతాను"),
    "Kannada": ("ನಾನು ಕನ್ನಡ ಮಾತನಾಡುತ್ತೇನೆ.", "ನಾನು ಕನ್ನಡ ಮಾತನಾಡುತ್ತೇನೆ"),
    "Malayalam": ("ഞാൻ മലയാളം സംസാരിക്കുന്നു.", "ഞാൻ മലയാളം സംസാരിക്കുന്നു"),
    "Sinhala": ("මම සිංහල කතා කරමි, ශ්‍රී ලංකාව.", "මම සිංහල කතා කරමි ශ්‍රී ලංකාව"),
    "Thai": ("ฉันรักประเทศไทย 2020 ปี", "ฉัน รัก ประเทศไทย 2020 ปี"),
    "Lao": ("ພາສາລາວ ແມ່ນດີ", "ພາສາ ລາວ ແມ່ນ ດີ"),
    "Khmer": ("ខ្ញុំស្រឡាញ់អ្នក។", "ខ្ញុំ ស្រឡាញ់ អ្នក"),
    "Burmese": ("မြန်မာဘာသာစကား။", "မြန်မာဘာသာ စကား"),
    "Tibetan": ("བོད་སྐད་ཡིན།", "བོད སྐད ཡིན"),
    "Amharic": ("ሰላም፣ እንዴት ነህ፤ ደህና ነኝ።", "ሰላም እንዴት ነህ ደህና ነኝ"),
    "Korean": ("서울(Seoul)은 한국의 수도이다.", "서울 Seoul 은 한국의 수도이다"),
    "Chinese": ("他说：“我喜欢Python 3。”", "他 说 我 喜 欢 Python 3"),
    "Japanese": ("私は「東京」に行きます。", "私 は 東 京 に 行 き ま す"),
    "emoji": ("OK 👩‍👩‍👧👍🏽 1️⃣ ❤️!", "OK 1️⃣"),
}


@pytest.mark.parametrize("script", SENTENCES)
def test_words_stay_whole_and_sentences_come_back(script):
    text, expected = SENTENCES[script]
    tokens = words.split(normalize(text))
    cores = [token.strip(f"{words.GLUE} \u00a0\u202f") for token in tokens]
    assert [core for core in cores if regex.search(r"[\p{L}\p{N}]", core)] == [
        normalize(word) for word in expected.split()
    ]
    assert words.join(tokens) == normalize(text)
    # No token begins with what belongs to the character before it.
    assert not any(regex.match(r"[\p{M}\u200d\p{Emoji_Modifier}]", core) for core in cores)


@pytest.mark.parametrize("level", ["word", "char", "subword"])
def test_a_copy_has_a_bleu_of_100_in_every_script(level):
    for script, (text, _) in SENTENCES.items():
        written = normalize(text)
        vocabulary = Vocabulary.build([text] * 20, level, max_size=200)
        copy = vocabulary.decode(vocabulary.encode(text))
        assert copy == written, script
        scores = TextMetrics(tokenizer_for([written])).scores([copy], [written])
        assert scores == pytest.approx({"bleu": 100, "chrf": 100}), script


def test_emoji_sequences_are_one_token():
    family, thumb, flag = "👩‍👩‍👧", "👍🏽", "🇮🇳"
    assert words.split(f"a {family} {thumb} {flag}") == ["a", family, thumb, flag]
    assert words.split(f"{family}{thumb}") == [family, words.GLUE + thumb]


def test_spacing_that_the_rules_expect_marks_nothing():
    for text in (
        "A man's dog (brown) isn't well-behaved: it ate 3.5 pies, at 10:30!",
        "Zwei junge weiße Männer sind im Freien.",
        "新加坡MRT不稳定。",
        "ฉันรักประเทศไทย",
    ):
        assert not any(words.GLUE in token or " " in token for token in words.split(text))


def test_punctuation_is_marked_rather_than_the_word_beside_it():
    glue = words.GLUE
    assert words.split('a "b" / c/d') == [
        *("a", f'"{glue}', "b", f'{glue}"', "/", "c", f"{glue}/{glue}", "d")
    ]
    assert words.split("oui ; « non »") == ["oui", " ;", "« ", "non", " »"]


def test_a_mark_between_two_words_is_a_token_of_its_own():
    assert words.split("10\u00a0km") == ["10", "\u00a0", "km"]
    assert words.split("3.5km Python 是") == ["3.5", words.GLUE, "km", "Python", " ", "是"]
    # Those that a model makes and no sentence has still give a sentence.
    assert words.join([" ", "a", words.GLUE, " ", "b", "\u00a0", f"{words.GLUE}.", " "]) == "a b."


def test_tokens_of_earlier_runs_are_split_and_joined_as_they_were():
    tokens = ["dogs", "'", "tails", '"', "x", '"', "."]
    assert words.split('dogs\' tails "x".', rules=1) == tokens
    assert words.join(tokens) == 'dogs \' tails " x ".'
    assert words.split("पानी", rules=1) == ["प", "ा", "न", "ी"]


def test_several_spaces_are_one_and_those_at_the_ends_none():
    assert words.join(words.split(" a \t b\u2028c  ")) == "a b c"
    assert words.join(words.split("10 \u00a0 000")) == "10\u00a0000"


# Pieces whose neighbourhood has rules: letters, marks, joiners, quotes, spaces of all kinds.
PIECES = st.sampled_from(
    [
        *"ab'’\"-.,:;!()«» \u00a0\u200b\u3000\t1२٣",
        *"नीกาเ中か゚あ_·אבบ\u0301\u200d\u200c👩👍🏽🇩🇪é\u00ad",
        words.GLUE,
    ]
)


@given(st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=12))
def test_any_text_comes_back(pieces):
    text = normalize("".join(pieces))
    usual = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\u2028\u2029"
    blank = r"[\s\x1c-\x1f\u200b]+"
    expected = regex.sub(blank, lambda gap: gap[0].strip(usual) or " ", text)
    expected = regex.sub(rf"^{blank}|{blank}$", "", expected).replace(words.GLUE, "\u25a0")
    tokens = words.split(text)
    assert words.join(tokens) == expected
    assert all(tokens)


def test_many_marks_or_quotes_take_no_quadratic_time():
    for text in ("\u0301" * 50_000, 'א"' * 50_000, "a'" * 50_000, "-" * 50_000, "ก" * 50_000):
        assert words.join(words.split(text)) == text
