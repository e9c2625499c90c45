"""Which cutouts of the Debian package tuxpaint-stamps-default make up which class."""

from collections.abc import Mapping

from experiments.data.composed.debian_manifest import Package

_FOLDER = "usr/share/tuxpaint/stamps"


def _in(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


# Chosen by eye: classes with nine cutouts or more that are photographs. Left out: drawings, things
# that do not belong to the class of their folder, and mirrored copies, which would leak from
# training into validation. Only the road signs are drawings, as road signs are.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "birds": _in(
        "animals/birds", "adelaide-rosella", "albino_peahen", "blackbird", "chicken_profile",
        "crow", "crowned_crane", "cuckoo", "drake", "duck", "gander", "guineafowl",
        "helmeted_guineafowl", "hen", "heron_greatblue", "heron_greatblue_flying", "lark",
        "little-penguin", "magellanic_penguin", "magpie", "nandou", "ostrich", "owl", "peacock",
        "pelican", "penguin", "pigeon", "pink_flamingo", "quetzal", "rainbow-lorikeet", "rooster",
        "seagull", "silver-gull", "tucan", "turkey", "vulture",
    ),
    "bugs": _in(
        "animals/insects", "Brown_slug", "Woodlouse", "bee", "fly", "grasshopper", "hornet",
        "hoverfly", "mantis", "xanthia",
    ),
    "coins": (
        *_in(
            "symbols/money/canadian/coins", "001penny", "005nickel", "010dime", "025quarter",
            "100loonie", "200toonie",
        ),
        *_in(
            "symbols/money/euro/coins", "001", "002", "005", "010", "020", "050", "100", "200"
        ),
        *_in(
            "symbols/money/japanese", "yen001", "yen005", "yen010", "yen050", "yen100", "yen500"
        ),
        *_in(
            "symbols/money/us/coins", "001penny", "005nickel", "010dime", "025quarter",
            "050kennedy-halfdollar", "100sacagawea",
        ),
    ),
    "flowers": _in(
        "plants/flowers", "adeenia", "anemone_red", "anthoorium", "appooppanthady", "bolsom",
        "chemparathi", "daffodil", "flower1", "flower10", "flower2", "flower3", "flower4",
        "flower5", "flower6", "flower7", "flower8", "flower9", "iris", "marigold", "pigface",
        "red-gazania", "rose", "whitestar-petunia", "yellow-flower",
    ),
    "fruit": _in(
        "food/fruit", "Apricot_whole", "Cherry_Stella", "Strawberry2", "apple_fuji",
        "apple_granny_smith", "apple_green", "apple_red", "apple_sierra_beauty", "apricot",
        "avocado", "banana", "cherimoya", "grapes", "kiwi", "lemon", "mandarine", "mango",
        "orange", "orange_seville", "pear", "pineapple", "pomegranate", "raspberry",
        "sliced_lime", "sliced_orange", "strawberry",
    ),
    "hoofed_animals": (
        *_in(
            "animals/mammals/bovines", "bison", "bull", "cow", "cow_white", "gnu-baby",
            "gnu-baby-stand", "gnu-sitting", "gnu-stand", "goat", "indian_blackbuck",
            "mountaingoat", "ram", "sheep", "sheep_lamb", "yak", "zebu",
        ),
        *_in("animals/mammals/camel", "camel", "dromedary"),
        *_in("animals/mammals/deer", "caribou", "deer", "doe", "wapiti"),
        *_in("animals/mammals/equines", "donkey", "donkey_eating", "horse", "zebra"),
    ),
    "instruments": (
        *_in("hobbies/music/brass", "trumpet"),
        *_in("hobbies/music/percussion", "cymbal_crash", "drum_tomtom_floor", "drumkit"),
        *_in(
            "hobbies/music/string", "cello", "guitar2", "guitar_classical", "guitar_electric",
            "guitar_electric_bass", "violin",
        ),
        *_in("hobbies/music/wind", "bassoon"),
    ),
    "road_signs": _in(
        "town/roadsigns", "arrow", "crossroads", "dead_end_sign", "give_way_sign", "hospital",
        "no_entry_sign", "no_uturn", "railroad_crossing", "roundabout", "school_sign", "stop",
        "stoplight_01_red", "stoplight_02_yellow", "stoplight_03_green", "t-junction", "toilets",
        "traffic_cone", "xing_ped", "xing_school", "yield",
    ),
    "sea_animals": _in(
        "animals/fish", "bluegroper", "butterflyfish", "clownfish", "coraltrout", "dolphinfish",
        "lionfish", "lobster", "moonwrasse", "seahorse", "shrimp", "stripedfish",
    ),
    "tools": (
        *_in("household/arttools", "scissors_small_open"),
        *_in("household/dishes/utensils", "nutcracker"),
        *_in(
            "household/tools", "hammer", "mallet_metal", "measuring_tape", "paintbrush_large",
            "plyers", "saw", "spade", "toolbox", "wrench", "wrench_adjustable", "wrench_plumbers",
        ),
    ),
    "vegetables": _in(
        "food/vegetables", "broccoli", "carrot", "chilepepper", "corn", "eggplant", "garlic",
        "garlics", "lettuce", "mushroom", "onion", "pattypan_squash", "pepper", "potato",
        "pumpkin_small", "redlettuce", "tomato", "yam", "yellowpepper",
    ),
    "vehicles": (
        *_in("military/vehicles", "bradley", "f22_raptor", "infantry-stryker", "ww2_german_gun"),
        *_in("vehicles", "garbagetruck"),
        *_in("vehicles/auto", "beetle", "sedan", "sportscar2", "truck"),
        *_in("vehicles/construction", "dumper"),
        *_in("vehicles/cycle", "pink_tricycle"),
        *_in("vehicles/emergency", "firetruck", "sedan_police"),
        *_in("vehicles/flight/planes", "747"),
        *_in("vehicles/masstransit", "green_korean_bus"),
        *_in("vehicles/race", "indycar"),
        *_in("vehicles/ship", "chineseJunk", "walnutBoat"),
    ),
}  # fmt: skip


def cached_name(cutout: str) -> str:
    """Returns the file name of a cutout in the cache, where folders of `CLASSES` are not kept."""
    return f"{cutout.replace('/', '-')}.png"


CUTOUTS = Package(
    "tuxpaint-stamps-default",
    {
        cached_name(cutout): f"{_FOLDER}/{cutout}.png"
        for cutouts in CLASSES.values()
        for cutout in cutouts
    },
)
