"""Words in the names of columns and types of events, in English and German."""

from __future__ import annotations

import re


def _split(words: str) -> list[str]:
    return words.split()


USER = _split(
    "user customer client visitor session member reviewer account buyer person uid shopper guest "
    "subscriber patient student reader listener player consumer household kunde kunden nutzer "
    "benutzer besucher käufer konto"
)
ITEM = _split(
    "item product parent asin sku article movie film book isbn track song goods good content video "
    "recipe game artist business listing offer ad news document artikel produkt ware buch ean gtin "
    "iid"
)
TIME = _split(
    "time timestamp ts date datetime at when day datum zeit zeitpunkt tag created unixtime "
    "zeitstempel uhrzeit"
)
TITLE = _split("title name titel bezeichnung label headline produktname artikelname")
RATING = _split("rating rate stars star score bewertung sterne punkte overall")
EVENT = _split("event action behavior behaviour type kind activity interaction ereignis aktion")
TEXT = _split("description text beschreibung blurb summary genres genre features details")
ORDER = _split("position order sequence seq step index rank reihenfolge")
ID = _split("id nr no num number key code uuid hash nummer")
OTHER = _split(
    "price preis betrag amount cost quantity menge anzahl count brand marke category kategorie "
    "color farbe gender age birth geburt email mail phone zip plz city ort country land address "
    "adresse url image currency währung discount rabatt tax steuer store shop filiale vendor seller"
)
"""Words of columns that are none of the roles."""

DROPPED = _split("view click impression pageview page detail search ansicht klick aufruf seen")
UNDONE = _split(
    "remove return refund cancel delete unlike dislike storno retoure skip unpaid failed declined "
    "rejected expired abandoned unsubscribe unsubscribed not"
)
MIDDLE = _split("cart basket wish fav favorite favourite like save add warenkorb merkliste")
BOUGHT = _split(
    "purchase buy bought order transaction sale checkout pay paid conversion kauf bestellung"
)


def words(name: str) -> list[str]:
    """The words of a name: ``order.boughtAt`` -> ``[order, bought, at]``."""
    parted = re.sub(r"(?<=[a-zäöü0-9])(?=[A-ZÄÖÜ])", " ", name)
    return [word for word in re.split(r"[^0-9a-zäöüß]+", parted.lower()) if word]


def among(word: str, known: list[str]) -> bool:
    """Whether a word is known, its plural is, or it is a compound with a longer known word."""
    if word in known or word.removesuffix("s") in known:
        return True
    return any(len(one) >= 4 and (word.startswith(one) or word.endswith(one)) for one in known)


def named(name: str, role: str) -> int:
    """How well the name of a column fits a role, 0 to 10."""
    found = words(name)
    if not found:
        return 0
    last = found[-1]
    user, item, other = (any(among(w, k) for w in found) for k in (USER, ITEM, OTHER))
    titled = any(among(w, TITLE) for w in found)
    key = among(last, ID)
    if role in ("user", "item"):
        mine, others = (user, item) if role == "user" else (item, user)
        # One word such as username is a user; customer_name is a name.
        titled = any(among(w, TITLE) and not (role == "user" and among(w, USER)) for w in found)
        if not mine or other or titled or among(last, TEXT) or among(last, RATING):
            return 0
        if among(last, TIME) and not among(last, USER + ITEM):
            return 0
        # Amazon's reviews name the variant, asin, and the product, parent_asin.
        sure = key or len(found) == 1
        return 10 - 3 * others - (0 if sure else 2) + 3 * ("parent" in found)
    if role == "title":
        if not titled or user or other or key:
            return 0
        return 10 if item or found == ["title"] or found == ["titel"] else 7
    if role == "time":
        born = any(among(w, ["birth", "geburt"]) for w in found)
        return 0 if born or key or not any(among(w, TIME) for w in found) else 10
    known = {"rating": RATING, "event": EVENT, "text": TEXT, "order": ORDER}[role]
    dated = any(among(w, TIME) for w in found)
    if role in ("event", "order") and (key or dated or (role == "order" and other)):
        return 0
    return 10 if any(among(w, known) for w in found) else 0
