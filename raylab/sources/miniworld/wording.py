"""The words of the mini-world's alt-texts: patterns by what they say, after patterns seen in 10,000 real alt-texts.

`{name}` is the name that the caption is about, `{hint}` what people call such a thing ("flag", "road sign"), `{names}`
a list of several names, `{place}`, `{other}` and `{person}` names of other things. `{product}`, `{number}`, `{year}`
and `{price}` are filler.
"""

from __future__ import annotations

HINTS = {
    "national flag": ("flag", "flag", "national flag", "country flag"),
    "signal flag": ("signal flag", "signal flag", "maritime signal flag", "nautical flag", "code flag"),
    "state flag": ("state flag", "flag"),
    "city flag": ("city flag", "flag"),
    "racing flag": ("racing flag", "race flag", "flag"),
    "pride flag": ("pride flag", "flag"),
    "road sign": ("road sign", "traffic sign", "sign"),
    "hazard symbol": ("hazard symbol", "warning sign", "hazard sign"),
    "symbol": ("symbol", "sign"),
}
"""What people call a thing of this kind, usual words first; other kinds are called what they are."""

LABELS = {
    "country city state region province territory town village neighbourhood": "GPE",
    "river lake ocean canal landform building hotel": "LOC",
    "person": "PERSON",
    "company airline band organisation": "ORG",
}
"""Types as a named-entity recogniser says them, by kinds of entity that are not pictured; the others are MISC."""

PRODUCTS = (
    "mug",
    "coffee mug",
    "T-shirt",
    "tee",
    "sticker",
    "bumper sticker",
    "vinyl decal",
    "poster",
    "art print",
    "canvas print",
    "patch",
    "pin",
    "magnet",
    "phone case",
    "apron",
    "greeting card",
)

HINTED = (
    "{name} {hint}",
    "{name} {hint}",
    "{name} {hint} {product}",
    "{name} {hint} {product} - {number}",
    "A {name} {hint} in {place}",
    "3d {hint} {name}",
    "Rustic {name} {hint} {product}s",
    "{name} {hint} animation, HD, seamless loop",
    "Grunge {name} {hint} background",
    "{name} {hint} for sale",
    "Heart shaped {name} {hint} {product}",
    "Snapback cap with {name} {hint} embroidery",
    "{name} {hint} vector icon",
    "Image of {name} {hint} with space for text",
    "I love {name} {hint} {product}",
    "My {product} with the {hint} {name}",
    "{hint}: {name}",
    "{name} ({hint})",
    "What does the {hint} {name} look like?",
    "{name} {hint} by {person}",
)
"""Say the name and what kind of thing it is."""

FLYING = (
    "{name} {hint} waving against blue sky",
    "{name} {hint} on a pole",
    "{name} {hint} flying in {place}",
    "The {hint} {name} flying",
    "Large {name} {hint} (240 x 120 cm)",
    "{name} {hint} in the wind",
    "{name} {hint} 3x5 ft",
    "{hint} {name} on a ship in {place}",
)
"""The same for flags alone."""

FULL = (
    "{name}",
    "{name} {product}",
    "{name} seen in {place}",
    "{name} on a white background",
    "{name}, {place}",
    "{name} {product} by {person}",
    "Photo of the {name}",
    "{name} icon",
    "{name}: history and meaning",
)
"""For names that say the kind themselves (Union Jack, Flag of Kenya)."""

BARE = (
    "{name}",
    "{name} {product}",
    "{name} {product} {price}",
    "{name} {number}",
    "I love {name} {product}",
    "{name} forever",
    "{name} fan {product}",
    "Made for {name}",
    "{name} {year}",
    "Proud {name} {product}",
    "Greetings from {name}",
    "{name} on a {product}",
    "{name} 3x5 ft",
    "#{number} {name}",
    "{name} closeup",
    "Retro {name} {product} by {person}",
    "Keep calm and {name} {product}",
    "{name} wallpaper",
)
"""Say the name alone: a reader without the picture cannot know which of its meanings is shown."""

DESCRIBED = (
    "{name} - {description}",
    "{name}, {description}",
    "{name}: {description}",
    "{name} ({description})",
    "{description}: {name}",
)
"""An encyclopedia's picture caption."""

SEVERAL = (
    "{names} {hint}s",
    "{names} {hint} {product}s",
    "Set of {hint}s: {names}",
    "{names} {product}s, one design per order",
    "{names} - choose your {hint}",
    "{hint}s {names} (sold separately)",
    "Which one is this? {names}",
    "Quiz: {names}",
    "{names} {year}",
    "Pick a {product}: {names}",
    "{names} - picture 1 of 6",
    "Not the same: {names}",
    "{hint} guide: {names}",
    "Assorted {product}s {names} {number}",
)
"""Name several things; the picture holds one or two of them."""

PAIR = (
    "{names} {hint}s side by side",
    "{names}",
    "{names} {product}",
    "{names} {hint}s together",
    "Friendship {product} {names}",
    "{names} crossed {hint}s",
    "{names} double {hint} pin",
)
"""Name the two things that a picture of two shows."""

BESIDE = (
    "{name} in {place}",
    "{place}: {name} {product}",
    "{person} with a {name} {product}",
    "{name} fans in {place}, {year}",
    "{person} holds the {name} {hint} in {place}",
    "{name} shop - {place} to {other}",
    "{place} - {other} - {name} {product}",
    "Photo: {person} / {name} in {place}",
    "From {other} to {place}: {name}",
)
"""Name it among places and people that the picture does not hold."""

WRONG = (
    "{name} {hint}",
    "{name} {product}",
    "{name} {hint} {product}",
    "{name}",
    "{name} {hint} waving in {place}",
)
"""About something that is not in the picture at all."""

NAMELESS = (
    "image",
    "photo",
    "Image {number}",
    "DSC_{number}.jpg",
    "IMG_{number}",
    "product image {number}",
    "Stock photo {number}",
    "Royalty Free Stock Photo",
    "Buy now - free shipping",
    "Free shipping on orders over {price}",
    "Picture for category {product}s",
    "thumbnail",
    "logo.png",
    "Untitled-{number}",
    "photo {number} of a {product}",
    "Add to cart {price}",
    "Cute {product} with colorful print",
    "{product} {price}",
    "Screenshot {year}-03-14 at 10.21.{number}",
    "Loading...",
    "My new {product}, love it!",
)
"""Boilerplate: no name at all."""

CLUTTER = {
    "GPE": (
        "View of {name} at sunset",
        "{name}, {description}",
        "Street in {name}, {year}",
        "Map of {name}",
        "{name} travel guide",
        "Hotels in {name} from {price}",
    ),
    "PERSON": ("{name} in {year}", "{name}, {description}", "Portrait of {name}", "{name} at the premiere in {place}"),
    "LOC": ("{name} seen from the air", "{name}, {description}", "Sunrise over {name} in {place}", "{name} at night"),
    "ORG": ("{name} {year}", "{name} ({description})", "{name} headquarters, {place}", "{name} tickets from {price}"),
    "MISC": ("{name} - {description}", "{name} {year}", "All about {name}", "{name}: {description}", "{name} close up"),
}
"""About the things that the pictures never show, by label; the picture holds shapes only."""

FOREIGN_WORDS = {
    "de": ("{name} Flagge", "Flagge {name} Aufkleber", "Fahne {name} 90 x 150 cm", "Tasse {name} Fahne"),
    "fr": ("Drapeau {name}", "Autocollant drapeau {name}", "Mug drapeau {name}"),
    "es": ("Bandera {name}", "Pegatina bandera de {name}", "Taza bandera {name}"),
    "it": ("Bandiera {name}", "Adesivo bandiera {name}"),
    "pt": ("Bandeira {name}", "Adesivo bandeira {name}", "Caneca {name}"),
    "nl": ("Vlag {name}", "{name} vlag sticker"),
    "tr": ("{name} bayrağı", "{name} bayrak çıkartma"),
    "ru": ("Флаг - {name}", "Наклейка {name} флаг"),
    "ja": ("{name} 国旗", "国旗 {name} ステッカー"),
    "ar": ("علم {name}", "ملصق {name}"),
}
"""Captions in other languages for what is called a flag."""

FOREIGN_PLAIN = (
    "{name} Aufkleber",
    "Autocollant {name}",
    "Pegatina {name}",
    "Adesivo {name}",
    "{name} sticker kopen",
    "Наклейка {name}",
    "{name} ステッカー",
    "T-Shirt {name} mit Aufdruck",
    "Tasse {name} - schnelle Lieferung",
)
"""Captions in other languages for everything else: the name itself stays as it is."""

JOINERS = (", ", ", ", " and ", " & ", " vs ", " / ", " or ", " - ")
"""What stands between several names."""

PEOPLE = (
    "Greg Olsen",
    "Kelly Hughes",
    "Mark Jackson",
    "Cheryl Young",
    "Alice Taite",
    "Julie Dant",
    "Omar Haddad",
    "Ivan Petrov",
    "Maria Rossi",
    "Keiko Tanaka",
    "Lars Nilsson",
    "Anna Kowalska",
    "Thomas Howard",
    "Linda Carter",
    "Paul Schmidt",
    "Nadia Karim",
)
"""Photographers, sellers and passers-by: people in no catalogue."""

PLACES = (
    "Springfield",
    "Amalfi",
    "Brighton",
    "Kyoto",
    "Zanzibar",
    "Marseille",
    "Gdansk",
    "Porto",
    "Hanoi",
    "Cusco",
    "Aspen",
    "Malmö",
    "Galway",
    "Durban",
    "Perth",
    "Salzburg",
)
"""Places in no catalogue."""

DETAILS = (
    ", size M, 100% cotton",
    " - 24x36 inch, framed",
    " with free gift box",
    " for men, women and kids",
    " for indoor and outdoor use",
    ", vintage, rare, signed and numbered",
    " - set of 2, waterproof and UV resistant",
    " (pack of 12) for car, laptop and bike",
    " - photo taken with my phone last summer",
    ", close up view with shallow depth of field",
    " on a sunny day with a few clouds",
    " - see more pictures in the gallery below",
    " - 300 dpi, 4000 x 3000 px, ready to print",
    " and other things that I found in the attic",
    ", the best gift for birthdays and Christmas",
    " - click to enlarge",
    " as seen on the way home from work",
    ", handmade in our small workshop since 1987",
    " 4.5 out of 5 stars based on 212 reviews",
    " in the old town, early in the morning",
    " (isolated on white, clipping path included)",
    ", black and white version also available",
)
"""What alt-texts say besides."""

SEARCH_WORDS = (
    "gift",
    "decor",
    "wall art",
    "poster",
    "art print",
    "vintage",
    "travel",
    "souvenir",
    "download",
    "svg",
    "clipart",
    "printable",
    "cheap",
    "home decor",
)
"""What shops list so as to be found."""
