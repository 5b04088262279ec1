"""The families of word problems. Each is a function of a draft and a number of calculations.

To add one: write a function `(Draft, steps) -> Story` whose result takes exactly `steps` calls, and
one line in `FAMILIES`. The file is long because it is mostly text: each family stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rightcall.tasks.math.stories import Draft, Story, Unfit, calculations, whole

NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "Dan",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Vera",
    "Will",
    "Yara",
    "Omar",
    "Lena",
    "Ravi",
    "Nora",
    "Ivan",
    "Maya",
    "Theo",
    "Zoe",
)
GOODS = (
    "pens",
    "books",
    "apples",
    "cakes",
    "cups",
    "lamps",
    "toys",
    "shirts",
    "plants",
    "bags",
    "hats",
    "balls",
    "plates",
    "candles",
    "chairs",
    "maps",
    "scarves",
    "tiles",
    "brushes",
    "notebooks",
)
SWEETS = ("cookies", "candies", "grapes", "nuts", "muffins", "cherries", "plums", "stickers")
THINGS = ("marbles", "stamps", "cards", "shells", "coins", "stickers", "beads", "stones", "pins")

Family = Callable[[Draft, int], Story]

MACHINE_NOISE = ("The machine weighs {} pounds.", "{} people watch the work.", "The hall has {} doors.")


@dataclass(frozen=True)
class Kind:
    """A family with the numbers of calculations it can have and the constants a solver may use
    that its texts do not spell in digits."""

    write: Family
    steps: tuple[int, ...] = (2, 3, 4, 5, 6)
    constants: tuple[int, ...] = (2,)


def _about(name: str) -> tuple[str, ...]:
    """Sentences about a person that matter to no question."""
    return (
        f"{name} is {{}} years old.",
        f"{name} lives at number {{}}.",
        f"{name} has {{}} cousins.",
        f"{name} got up {{}} minutes early.",
    )


def shopping(d: Draft, steps: int) -> Story:
    """Items at a price, paid with a note; the change."""
    name, (first, second) = d.pick(NAMES), d.two(GOODS)
    n, price = d.number(2, 12), d.decimal(2, 15)
    buys = [
        d.pick(
            (
                f"{name} buys {n} {first} at {price} dollars each.",
                f"{name} goes to the shop and takes {n} {first}. Each costs {price} dollars.",
            )
        )
    ]
    total = n * price
    if steps >= 4:
        m, other = d.number(2, 12), d.decimal(2, 15)
        buys.append(
            d.pick(
                (
                    f"{name} also buys {m} {second} for {other} dollars each.",
                    f"The {second} cost {other} dollars each and {name} takes {m}.",
                )
            )
        )
        total = total + m * other
    if steps in (3, 5, 6):
        coupon = d.number(2, 12)
        buys.append(
            d.pick(
                (
                    f"A coupon takes {coupon} dollars off the bill.",
                    f"The shop gives back {coupon} dollars as a gift.",
                )
            )
        )
        total = total - coupon
    if steps == 6:
        fee = d.number(2, 9)
        buys.append(f"Packing costs {fee} dollars more.")
        total = total + fee
    paid = d.number(20, 500, 10)
    ask = d.pick(
        (
            f"{name} pays with {paid} dollars. How much change does {name} get?",
            f"How many dollars are left if {name} had {paid} dollars at first?",
        )
    )
    return Story(
        tuple(buys),
        ask,
        paid - total,
        (*_about(name), "The shop is open for {} hours.", f"There are {{}} {second} on a shelf."),
    )


def savings(d: Draft, steps: int) -> Story:
    """Money put aside week by week; what is still missing."""
    name, thing = d.pick(NAMES), d.pick(("bike", "phone", "guitar", "tent", "camera", "desk"))
    week, weeks = d.number(3, 40), d.number(2, 20)
    text = [
        d.pick(
            (
                f"{name} saves {week} dollars every week for {weeks} weeks.",
                f"For {weeks} weeks {name} puts {week} dollars a week in a box.",
            )
        )
    ]
    total = week * weeks
    if steps >= 3:
        start = d.number(5, 90)
        text.insert(0, d.pick((f"{name} has {start} dollars.", f"{name} starts with {start} dollars.")))
        total = start + total
    if steps >= 4:
        gift = d.number(5, 60)
        text.append(
            d.pick((f"Then an aunt gives {name} {gift} dollars.", f"{name} finds {gift} dollars more."))
        )
        total = total + gift
    if steps >= 5:
        spent = d.number(5, 60)
        text.append(f"{name} spends {spent} dollars on {d.pick(GOODS)}.")
        total = total - spent
    if steps == 6 or (steps > 2 and d.chance(0.4)):
        text.append(
            d.pick(
                (
                    f"{name} gives half of the money to a friend.",
                    f"{name} lends half of this money to a brother.",
                )
            )
        )
        total = total / 2
    if len(calculations(total)) == steps:
        return Story(
            tuple(text),
            d.pick(
                (f"How many dollars does {name} have now?", f"How many dollars are left for a {thing}?")
            ),
            total,
            _about(name),
        )
    price = d.number(100, 900, 5)
    ask = d.pick(
        (
            f"A {thing} costs {price} dollars. How many dollars does {name} still need?",
            f"How many dollars more does {name} need for a {thing} that costs {price} dollars?",
        )
    )
    return Story(tuple(text), ask, price - total, _about(name))


def sharing(d: Draft, steps: int) -> Story:
    """Packs opened, some eaten, the rest shared."""
    name, food = d.pick(NAMES), d.pick(SWEETS)
    packs, each = d.number(3, 15), d.number(4, 30)
    text = [
        d.pick(
            (
                f"{name} has {packs} bags with {each} {food} in each.",
                f"There are {packs} bags of {food}. Every bag holds {each} {food}.",
            )
        )
    ]
    total = packs * each
    if steps >= 3:
        gone = d.number(2, 40)
        text.append(d.pick((f"{name} eats {gone} of them.", f"{gone} {food} fall on the floor.")))
        total = total - gone
    if steps >= 4:
        more = d.number(2, 40)
        text.append(d.pick((f"A neighbor brings {more} more {food}.", f"{name} buys {more} more.")))
        total = total + more
    if steps >= 6:
        text.append(f"Half of the {food} are kept for later.")
        total = total / 2
        whole(total)
    friends = d.divisor(total, 2, 12)
    share = total / friends
    text.append(
        d.pick(
            (
                f"The {food} are shared equally by {friends} friends.",
                f"{friends} children share the {food} equally.",
            )
        )
    )
    if steps < 5:
        ask = d.pick((f"How many {food} does each one get?", f"How many {food} are there for each?"))
        return Story(tuple(text), ask, share, _about(name))
    own = d.number(2, 20)
    text.append(
        d.pick(
            (
                f"One of them, {d.pick(NAMES)}, had {own} {food} already.",
                f"One of them has {own} {food} from home.",
            )
        )
    )
    return Story(tuple(text), f"How many {food} does that one have now?", share + own, _about(name))


def travel(d: Draft, steps: int) -> Story:
    """Speeds and hours; what is left of the way."""
    name, way = d.pick(NAMES), d.pick(("car", "bus", "train", "truck", "van"))
    speed, hours = d.number(20, 90, 5), d.number(2, 9)
    text = [
        d.pick(
            (
                f"{name} drives a {way} at {speed} miles an hour for {hours} hours.",
                f"A {way} goes for {hours} hours at {speed} miles per hour.",
            )
        )
    ]
    total = speed * hours
    if steps >= 4:
        speed2, hours2 = d.number(15, 80, 5), d.number(2, 9)
        text.append(
            d.pick(
                (
                    f"Then the {way} goes {speed2} miles an hour for {hours2} hours.",
                    f"The next {hours2} hours the speed is {speed2} miles per hour.",
                )
            )
        )
        total = total + speed2 * hours2
    if steps in (3, 5, 6):
        extra = d.number(5, 60)
        text.append(
            d.pick((f"A detour adds {extra} miles.", f"At last come {extra} miles of slow road."))
        )
        total = total + extra
    if steps == 6:
        back = d.number(5, 60)
        text.append(f"A wrong turn leads {back} miles back.")
        total = total - back
    length = d.number(100, 1500, 10)
    ask = d.pick(
        (
            f"The whole way is {length} miles. How many miles are left?",
            f"How far is it still, if the way is {length} miles long?",
        )
    )
    return Story(
        tuple(text),
        ask,
        length - total,
        (f"The {way} is {{}} years old.", f"The {way} has {{}} seats.", *_about(name)),
    )


def machines(d: Draft, steps: int) -> Story:
    """Two rates that work side by side; what is made fills boxes."""
    goods = d.pick(GOODS)
    total = d.number(5, 60)
    text = [
        d.pick(
            (
                f"A machine makes {total} {goods} an hour.",
                f"One machine makes {total} {goods} per hour.",
            )
        )
    ]
    if steps >= 3:
        other = d.number(5, 60)
        text.append(
            d.pick(
                (
                    f"A second machine makes {other} {goods} an hour.",
                    f"Next to it a new machine makes {other} {goods} an hour.",
                )
            )
        )
        total = total + other
    hours = d.number(2, 12)
    text.append(
        d.pick(
            (
                f"They run for {hours} hours." if steps >= 3 else f"It runs for {hours} hours.",
                f"Work goes on for {hours} hours.",
            )
        )
    )
    total = total * hours
    if steps >= 4:
        bad = d.number(2, 50)
        text.append(
            d.pick(
                (
                    f"{bad} {goods} are broken and thrown away.",
                    f"{bad} of the {goods} are bad and thrown away.",
                )
            )
        )
        total = total - bad
    if steps >= 5:
        stock = d.number(5, 90)
        text.append(
            d.pick(
                (
                    f"The store room already holds {stock} good ones.",
                    f"There are {stock} good ones from the day before.",
                )
            )
        )
        total = total + stock
    if steps == 6 or (steps in (4, 5) and d.chance(0.3)):
        text.append("Half of the good ones are sold at once.")
        total = total / 2
        whole(total)
    if len(calculations(total)) == steps:
        ask = d.pick((f"How many good {goods} are there now?", f"How many good {goods} are left?"))
        return Story(tuple(text), ask, total, MACHINE_NOISE)
    box = d.divisor(total, 2, 12)
    text.append(d.pick((f"{box} {goods} fit in a box.", f"Each box takes {box} {goods}.")))
    ask = d.pick(
        (
            f"How many boxes do the {'good ' if steps >= 4 else ''}ones fill?",
            f"How many boxes are needed for all {'good ' if steps >= 4 else ''}{goods}?",
        )
    )
    return Story(tuple(text), ask, total / box, MACHINE_NOISE)


def discount(d: Draft, steps: int) -> Story:
    """A price cut by a percentage, and a tax on the rest."""
    name, thing = (
        d.pick(NAMES),
        d.pick(("coat", "lamp", "watch", "radio", "table", "clock", "sofa", "bed")),
    )
    price = d.number(20, 400, 10)
    off = d.number(5, 60, 5)
    text = [
        d.pick((f"A {thing} costs {price} dollars.", f"The price of a {thing} is {price} dollars."))
    ]
    total = price
    if steps in (3, 5):
        n = d.number(2, 6)
        text.append(d.pick((f"{name} buys {n} of them.", f"{name} takes {n}.")))
        total = n * total
    text.append(d.pick((f"{name} gets {off}% off.", f"The store takes {off}% off the price.")))
    total = total - off.percent_of(total)
    if steps == 6:
        first = d.number(3, 20)
        text.append(f"A coupon takes {first} dollars more off.")
        total = total - first
    if steps >= 4:
        tax = d.number(5, 20, 5)
        text.append(d.pick((f"Then {tax}% tax is added.", f"A tax of {tax}% is added at the end.")))
        total = total + tax.percent_of(total)
    if steps == 6:
        fee = d.number(2, 30)
        text.append(d.pick((f"Delivery costs {fee} dollars more.", f"The driver gets {fee} dollars.")))
        total = total + fee
    return Story(
        tuple(text),
        d.pick((f"How much does {name} pay?", f"How many dollars does {name} pay in all?")),
        total,
        (f"The {thing} is {{}} inches high.", *_about(name)),
    )


def ages(d: Draft, steps: int) -> Story:
    """Ages now and later."""
    (one, two), three = d.two(NAMES), d.pick(NAMES)
    if three in (one, two):
        three = "Grandma"
    age, more = d.number(3, 20), d.number(2, 15)
    text = [f"{one} is {age} years old."]
    if d.chance(0.5):
        text.append(
            d.pick(
                (
                    f"{two} is {more} years older than {one}.",
                    f"{two} was born {more} years before {one}.",
                )
            )
        )
        other = age + more
    else:
        times = d.again(more, 3 + int(more) % 4)
        text.append(
            d.pick(
                (
                    f"{two} is {times} times as old as {one}.",
                    f"The age of {two} is {times} times the age of {one}.",
                )
            )
        )
        other = age * times
    result = other
    if steps >= 3:
        text.append(
            d.pick(
                (
                    f"{three} is as old as {one} and {two} together.",
                    f"The ages of {one} and {two} add up to the age of {three}.",
                )
            )
        )
        result = age + other
    if steps >= 4:
        younger = d.number(2, 9)
        text.append(
            d.pick(
                (
                    f"Uncle Tom is {younger} years younger than {three}.",
                    f"Uncle Tom was born {younger} years after {three}.",
                )
            )
        )
        result = result - younger
    if steps >= 5:
        text.append(
            "Uncle Tom is twice as old as his son."
            if d.chance(0.5)
            else "The son of Uncle Tom is half as old as his father."
        )
        result = result / 2
        whole(result)
    if steps >= 6:
        extra = d.number(2, 9)
        text.append(f"The son's friend is {extra} years older than the son.")
        result = result + extra
    if result.value > 90:
        raise Unfit
    years = d.number(2, 15)
    who = {2: two, 3: three, 4: "Uncle Tom", 5: "the son", 6: "the friend"}[steps]
    return Story(
        tuple(text),
        d.pick(
            (f"How old will {who} be in {years} years?", f"In {years} years, how old will {who} be?")
        ),
        result + years,
        (f"{one} has {{}} pets.", f"{two} lives at number {{}}."),
    )


def recipe(d: Draft, steps: int) -> Story:
    """Amounts scaled to another number of people, with fractions."""
    name, food = d.pick(NAMES), d.pick(("flour", "sugar", "rice", "milk", "butter", "oats"))
    dish = d.pick(("soup", "cake", "bread", "pie", "stew", "pudding"))
    amount, base, people = d.decimal(2, 30), d.number(2, 8), d.number(3, 30)
    unit = d.pick(("cups", "spoons", "grams", "ounces"))
    text = [
        d.pick(
            (
                f"A {dish} for {base} people needs {amount} {unit} of {food}.",
                f"It takes {amount} {unit} of {food} to make a {dish} for {base} people.",
            )
        ),
        d.pick((f"{name} cooks for {people} people.", f"{name} has {people} guests.")),
    ]
    total = amount / base * people
    if steps >= 4:
        top, bottom = d.number(1, 3), d.number(3, 5)
        if top.value >= bottom.value or int(top) * 2 == int(bottom):
            bottom = d.again(bottom, int(top) + 1)
        text.append(
            d.pick(
                (
                    f"{name} likes it light and uses only {top}/{bottom} of that.",
                    f"To save {food} {name} takes {top}/{bottom} of this amount.",
                )
            )
        )
        total = total / bottom * top
    if steps in (3, 5, 6):
        spare = d.decimal(2, 20)
        text.append(
            d.pick((f"Then {spare} {unit} more go on top.", f"{name} adds {spare} {unit} for luck."))
        )
        total = total + spare
    if steps == 6:
        have = d.decimal(2, 20)
        text.append(f"There are already {have} {unit} of {food} at home.")
        total = total - have
        return Story(
            tuple(text),
            d.pick((f"How many {unit} of {food} must {name} buy?", f"How many {unit} are missing?")),
            total,
            _about(name),
        )
    return Story(
        tuple(text),
        d.pick((f"How many {unit} of {food} does {name} use?", f"How many {unit} of {food} is that?")),
        total,
        (*_about(name), f"The {dish} is in the oven for {{}} minutes."),
    )


def profit(d: Draft, steps: int) -> Story:
    """Bought at one price, sold at another."""
    name, goods = d.pick(NAMES), d.pick(GOODS)
    n, cost, price = d.number(3, 40), d.number(2, 20), d.number(5, 50)
    if price.value <= cost.value:
        price = d.again(price, int(cost) + int(price) // 2 + 1)
    text = [
        d.pick(
            (
                f"{name} buys {goods} at {cost} dollars each and sells them at {price} dollars each.",
                f"{name} pays {cost} dollars for each of the {goods} and gets {price} dollars for it.",
            )
        )
    ]
    each = price - cost
    sold = d.pick((f"{name} sells {n} {goods}.", f"On Monday {n} {goods} are sold."))
    text.append(sold)
    count = n
    if steps >= 4:
        m = d.number(3, 40)
        text.append(d.pick((f"On the next day {name} sells {m} more.", f"Later {m} more are sold.")))
        count = n + m
    total = each * count
    if steps in (3, 5, 6):
        rent = d.number(5, 80)
        text.append(
            d.pick((f"The stand costs {rent} dollars.", f"{name} pays {rent} dollars of rent."))
        )
        total = total - rent
    if steps == 4:
        friends = d.number(2, 5)
        text.append(f"{friends} partners share the profit equally.")
        return Story(
            tuple(text), "How many dollars does each partner get?", total / friends, _about(name)
        )
    if steps >= 5:
        tip = d.number(2, 40)
        text.append(f"Guests leave {tip} dollars as a tip for {name}.")
        total = total + tip
    if steps == 6:
        text.append(f"{name} gives half of it all to a school.")
        total = total / 2
    return Story(
        tuple(text),
        d.pick(
            (
                f"How much profit does {name} make?"
                if steps < 6
                else f"How many dollars does {name} keep?",
                f"How many dollars does {name} have from this?",
            )
        ),
        total,
        _about(name),
    )


def mixture(d: Draft, steps: int) -> Story:
    """Liters of juice at a percentage of fruit."""
    name, (one, two) = d.pick(NAMES), d.two(("apple", "orange", "cherry", "lemon", "grape", "mango"))
    liters, share = d.number(2, 60, 2), d.number(10, 90, 5)
    text = [
        d.pick(
            (
                f"{name} mixes {liters} liters of a drink that is {share}% {one} juice",
                f"A bowl holds {liters} liters of punch with {share}% {one} juice",
            )
        )
    ]
    pure = share.percent_of(liters)
    if steps >= 3:
        liters2, share2 = d.number(2, 60, 2), d.number(10, 90, 5)
        text[0] += d.pick(
            (
                f" with {liters2} liters that are {share2}% {one} juice.",
                f" and {liters2} liters with {share2}% {one} juice are added.",
            )
        )
        pure = pure + share2.percent_of(liters2)
    else:
        text[0] += "."
    if steps in (2, 4, 5, 6):
        plus = d.number(2, 20)
        text.append(
            d.pick(
                (
                    f"Then {plus} liters of pure {one} juice go in.",
                    f"{name} adds {plus} liters of pure {one} juice.",
                )
            )
        )
        pure = pure + plus
    if steps >= 5:
        glasses = d.number(2, 10)
        text.append(f"The mix fills {glasses} equal jars.")
        pure = pure / glasses
    if steps == 6:
        have = d.number(2, 9)
        text.append(f"One jar gets {have} more liters of {one} juice.")
        pure = pure + have
        return Story(
            tuple(text), f"How many liters of {one} juice are in that jar?", pure, _about(name)
        )
    where = "each jar" if steps == 5 else "the mix"
    return Story(
        tuple(text),
        d.pick(
            (
                f"How many liters of {one} juice are in {where}?",
                f"How much {one} juice, in liters, is in {where}?",
            )
        ),
        pure,
        (*_about(name), f"A bottle of {two} juice costs {{}} dollars."),
    )


def garden(d: Draft, steps: int) -> Story:
    """Area and perimeter of a rectangle."""
    name, place = d.pick(NAMES), d.pick(("garden", "field", "yard", "park", "room", "hall", "court"))
    long, wide = d.number(5, 40), d.number(3, 30)
    text = [
        d.pick(
            (
                f"A {place} is {long} meters long and {wide} meters wide.",
                f"The {place} of {name} measures {long} meters by {wide} meters.",
            )
        )
    ]
    noise = (f"The {place} is {{}} years old.", *_about(name))
    if d.chance(0.5):
        total = (long + wide) * 2
        if steps >= 3:
            gate = d.number(2, 9)
            text.append(
                d.pick(
                    (
                        f"A fence goes around it except for a gate of {gate} meters.",
                        f"{name} fences it all around but leaves {gate} meters open.",
                    )
                )
            )
            total = total - gate
        else:
            text.append(f"{name} puts a fence all around it.")
        if steps == 2:
            return Story(
                tuple(text),
                d.pick(("How many meters of fence are needed?", "How long is the fence in meters?")),
                total,
                noise,
            )
        thing, unit = "fence", "meter"
    else:
        total = long * wide
        pond = d.number(2, 60)
        text.append(
            d.pick(
                (
                    f"A pond takes {pond} square meters of it.",
                    f"{pond} square meters are covered with stone.",
                )
            )
        )
        total = total - pond
        if steps == 2:
            return Story(
                tuple(text),
                d.pick(("How many square meters are left?", "How many square meters are free?")),
                total,
                noise,
            )
        if steps >= 3:
            text.append(
                "Half of the rest becomes grass."
                if steps > 3 or d.chance(0.5)
                else "Half of the rest is for grass."
            )
            total = total / 2
        thing, unit = "grass", "square meter"
    if steps == 3:
        unit_name = "meters of fence" if thing == "fence" else "square meters of grass"
        return Story(tuple(text), f"How many {unit_name} are there?", total, noise)
    price = d.number(2, 12)
    text.append(
        d.pick(
            (
                f"The {thing} costs {price} dollars a {unit}.",
                f"Each {unit} of {thing} costs {price} dollars.",
            )
        )
    )
    total = total * price
    if steps >= 5:
        work = d.number(10, 90)
        text.append(
            d.pick((f"The worker asks for {work} dollars.", f"Work costs {work} dollars more."))
        )
        total = total + work
    if steps == 6:
        help_ = d.number(5, 90)
        text.append(f"The town pays {help_} dollars of this.")
        total = total - help_
    return Story(
        tuple(text),
        d.pick((f"How much does {name} pay?", f"How many dollars does {name} pay?")),
        total,
        noise,
    )


def units(d: Draft, steps: int) -> Story:
    """Hours and minutes, weeks and days, dozens, feet and inches."""
    name = d.pick(NAMES)
    big, small, factor, doing = d.pick(
        (
            ("hours", "minutes", 60, "works"),
            ("weeks", "days", 7, "travels"),
            ("days", "hours", 24, "waits"),
            ("minutes", "seconds", 60, "swims"),
            ("years", "months", 12, "studies"),
        )
    )
    n, extra = d.number(2, 9), d.number(2, 50)
    text = [
        d.pick(
            (
                f"{name} {doing} for {n} {big} and {extra} {small}.",
                f"First {name} {doing} for {n} {big} and then for {extra} {small} more.",
            )
        )
    ]
    total = n * factor + extra
    if steps in (3, 5, 6):
        rest = d.number(2, 40)
        text.append(
            d.pick((f"For {rest} {small} of this {name} rests.", f"{rest} {small} of it are a break."))
        )
        total = total - rest
    if steps >= 4:
        m = d.number(2, 9)
        other = d.pick(NAMES) if d.chance(0.5) else "a friend"
        text.append(
            d.pick(
                (
                    f"After that {other} goes on for {m} {big}.",
                    f"Then {other} takes over for {m} {big}.",
                )
            )
        )
        total = total + m * factor
    if steps == 6:
        text.append("The same happens again on another day, so all of this counts twice.")
        total = total * 2
    return Story(
        tuple(text),
        d.pick((f"How many {small} is that in all?", f"How many {small} are there in all?")),
        total,
        (f"{name} is paid {{}} dollars.", *_about(name)),
    )


def tickets(d: Draft, steps: int) -> Story:
    """Money taken at a door."""
    place = d.pick(("circus", "cinema", "zoo", "museum", "concert", "pool", "theater"))
    a, price = d.number(10, 90), d.number(4, 20)
    text = [
        d.pick(
            (
                f"A {place} sells {a} tickets for adults at {price} dollars each.",
                f"{a} adults go to the {place} and pay {price} dollars each.",
            )
        )
    ]
    total = a * price
    if steps >= 3:
        c, less = d.number(5, 90), d.number(2, 12)
        text.append(
            d.pick(
                (
                    f"It sells {c} tickets for children at {less} dollars each.",
                    f"{c} children pay {less} dollars each.",
                )
            )
        )
        total = total + c * less
    if steps in (2, 4, 5, 6):
        cost = d.number(20, 200, 5)
        text.append(
            d.pick((f"The {place} pays {cost} dollars for power.", f"Cleaning costs {cost} dollars."))
        )
        total = total - cost
    if steps >= 5:
        gift = d.number(5, 90)
        text.append(
            d.pick(
                (
                    f"A guest gives {gift} dollars to the {place}.",
                    f"Drinks bring in {gift} dollars more.",
                )
            )
        )
        total = total + gift
    if steps == 6:
        share = d.number(2, 6)
        text.append(f"The money is shared equally by {share} owners.")
        return Story(
            tuple(text),
            "How many dollars does each owner get?",
            total / share,
            (f"The {place} has {{}} lamps.", "{} workers are there."),
        )
    return Story(
        tuple(text),
        d.pick(
            (
                f"How many dollars does the {place} have from this?",
                f"How much money is left for the {place}?"
                if steps != 3
                else f"How much money does the {place} take in?",
            )
        ),
        total,
        (f"The {place} has {{}} lamps.", "{} workers are there."),
    )


def fuel(d: Draft, steps: int) -> Story:
    """Miles, gallons and dollars."""
    name, way = d.pick(NAMES), d.pick(("car", "van", "truck", "bus"))
    per, price, miles = d.number(8, 40), d.decimal(2, 6), d.number(2, 20)
    miles = total = d.again(miles, int(miles) * int(per))
    text = [
        d.pick(
            (
                f"The {way} of {name} goes {per} miles on a gallon of fuel.",
                f"A {way} drives {per} miles with each gallon of fuel.",
            )
        )
    ]
    trip = d.pick((f"{name} drives {miles} miles.", f"{name} makes a trip of {miles} miles."))
    if steps >= 4:
        more = d.number(2, 12)
        more = d.again(more, int(more) * int(per))
        trip += d.pick((f" The way back is {more} miles.", f" Then come {more} miles more."))
        total = miles + more
    text.append(trip)
    text.append(d.pick((f"A gallon costs {price} dollars.", f"Fuel costs {price} dollars a gallon.")))
    total = total / per * price
    if steps >= 5 or steps == 3 or (steps == 4 and d.chance(0.5)):
        toll = d.number(2, 30)
        text.append(d.pick((f"A bridge costs {toll} dollars.", f"{name} pays {toll} dollars to park.")))
        total = total + toll
    if steps == 6:
        meal = d.number(5, 40)
        text.append(d.pick((f"{name} eats for {meal} dollars.", f"A meal costs {meal} dollars.")))
        total = total + meal
    noise = (f"The {way} is {{}} years old.", f"The {way} has {{}} seats.", *_about(name))
    if len(calculations(total)) == steps:
        ask = d.pick(
            (f"How many dollars does {name} pay in all?", f"How much does {name} spend in dollars?")
        )
        return Story(tuple(text), ask, total, noise)
    friends = d.number(2, 6)
    text.append(f"{friends} friends share the cost equally.")
    return Story(tuple(text), "How many dollars does each friend pay?", total / friends, noise)


def average(d: Draft, steps: int) -> Story:
    """Scores and their mean."""
    name, what = d.pick(NAMES), d.pick(("points", "goals", "pages", "laps", "tasks", "jumps"))
    scores = [d.number(5, 95) for _ in range({2: 2, 3: 3, 4: 4, 5: 4, 6: 5}[steps])]
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
    listed = ", ".join(f"{s} on {day}" for s, day in zip(scores[:-1], days, strict=False))
    last = f"{scores[-1]} on {days[len(scores) - 1]}"
    text = [
        d.pick(
            (
                f"{name} makes {listed} and {last} ({what}).",
                f"These are the {what} of {name}: {listed} and {last}.",
            )
        )
    ]
    total = scores[0]
    for score in scores[1:]:
        total = total + score
    result = total / len(scores)
    ask = d.pick(
        (f"What is the mean of {name}'s {what} per day?", f"How many {what} a day is that on average?")
    )
    if steps >= 5:
        other = d.number(2, 40)
        friend = "a friend"
        text.append(
            d.pick(
                (
                    f"On average {friend} makes {other} more a day.",
                    f"{friend.capitalize()} has a mean that is {other} higher.",
                )
            )
        )
        return Story(
            tuple(text),
            d.pick(
                (
                    "What is the mean of the friend?",
                    f"How many {what} a day does the friend make on average?",
                )
            ),
            result + other,
            _about(name),
        )
    return Story(tuple(text), ask, result, _about(name))


def comparison(d: Draft, steps: int) -> Story:
    """Chains of `more than`, `fewer than` and `times as many`."""
    things = d.pick(THINGS)
    people = list(NAMES)
    first = int(d.rng.random() * len(people))
    people = [people[(first + 7 * i) % len(people)] for i in range(7)]
    start = d.number(3, 40)
    text = [f"{people[0]} has {start} {things}."]
    known = [start]
    for i in range(1, steps):
        one, two, base = people[i], people[i - 1], known[-1]
        kind = int(d.rng.random() * 5)
        if kind == 0:
            n = d.number(2, 30)
            text.append(f"{one} has {n} more {things} than {two}.")
            known.append(base + n)
        elif kind == 1:
            n = d.number(2, 30)
            text.append(f"{one} has {n} fewer {things} than {two}.")
            known.append(base - n)
        elif kind == 2:
            n = d.number(3, 6)
            text.append(f"{one} has {n} times as many {things} as {two}.")
            known.append(base * n)
        elif kind == 3:
            text.append(f"{one} has twice as many {things} as {two}.")
            known.append(base * 2)
        else:
            text.append(f"{one} has half as many {things} as {two}.")
            known.append(base / 2)
            whole(known[-1])
    last, before = people[steps - 1], people[steps - 2]
    return Story(
        tuple(text),
        d.pick(
            (
                f"How many {things} do {before} and {last} have together?",
                f"How many {things} do {before} and {last} have in all?",
            )
        ),
        known[-2] + known[-1],
        (*_about(people[0]), f"{people[0]} lost {{}} pens."),
    )


def fractions(d: Draft, steps: int) -> Story:
    """A fraction of a whole, and the rest."""
    place = d.pick(("school", "club", "camp", "choir", "team"))
    top, bottom = d.pick(((2, 3), (3, 4), (2, 5), (3, 5), (4, 5), (5, 6), (3, 8), (5, 8)))
    people, p, q = d.number(5, 60), d.number(top, top), d.number(bottom, bottom)
    people = d.again(people, int(people) * bottom)
    thing = d.pick(("wear a hat", "play chess", "ride a bike", "have a dog", "like tea", "sing well"))
    text = [
        d.pick((f"A {place} has {people} members.", f"There are {people} members in a {place}.")),
        d.pick((f"{p}/{q} of them {thing}.", f"Of these, {p}/{q} {thing}.")),
    ]
    noise = (f"The {place} is {{}} years old.", f"The {place} owns {{}} chairs.")
    total = people / q * p
    if steps == 2:
        return Story(tuple(text), f"How many of them {thing}?", total, noise)
    doing = thing
    if steps != 4 or d.chance(0.5):
        total, doing = people - total, f"do not {thing}"
    if steps == 3:
        return Story(tuple(text), f"How many of them {doing}?", total, noise)
    new = d.number(2, 30)
    text.append(d.pick((f"Then {new} new members come who {doing}.", f"{new} more who {doing} join.")))
    total = total + new
    if len(calculations(total)) < steps:
        gone = d.number(2, 20)
        text.append(d.pick((f"{gone} of those who {doing} go home.", f"{gone} who {doing} leave.")))
        total = total - gone
    if len(calculations(total)) < steps:
        text.append(f"Later half of those who {doing} leave.")
        total = total / 2
        whole(total)
    return Story(tuple(text), f"How many who {doing} are there now?", total, noise)


def packing(d: Draft, steps: int) -> Story:
    """Boxes of boxes, and what they weigh or cost."""
    name, goods = d.pick(NAMES), d.pick(GOODS)
    crates, boxes = d.number(2, 9), d.number(2, 12)
    text = [
        d.pick(
            (
                f"{name} sends {crates} crates with {boxes} boxes in each.",
                f"There are {crates} crates. Each crate holds {boxes} boxes.",
            )
        )
    ]
    total = crates * boxes
    each = d.number(2, 12)
    text.append(d.pick((f"Every box holds {each} {goods}.", f"In each box there are {each} {goods}.")))
    total = total * each
    if steps >= 3:
        loose = d.number(2, 60)
        text.append(
            d.pick(
                (f"{loose} {goods} more are put on top.", f"Then {name} adds {loose} loose {goods}.")
            )
        )
        total = total + loose
    if steps >= 4:
        lost = d.number(2, 60)
        text.append(
            d.pick((f"{lost} {goods} break on the way.", f"On the way {lost} {goods} are lost."))
        )
        total = total - lost
    if steps >= 5:
        sold = d.number(10, 90, 5)
        text.append(
            d.pick((f"The shop sells {sold}% of the rest.", f"{sold}% of what is left is sold."))
        )
        if steps == 5:
            total = sold.percent_of(total)
            whole(total)
            return Story(tuple(text), f"How many {goods} are sold?", total, _about(name))
        total = total - sold.percent_of(total)
        whole(total)
    return Story(
        tuple(text),
        d.pick((f"How many {goods} are there in the end?", f"How many {goods} are there now?")),
        total,
        (*_about(name), "Each crate weighs {} pounds."),
    )


def wages(d: Draft, steps: int) -> Story:
    """Hours, overtime and what is taken off."""
    name, job = d.pick(NAMES), d.pick(("cook", "driver", "painter", "guard", "baker", "gardener"))
    rate, hours = d.number(8, 30), d.number(3, 10)
    text = [
        d.pick(
            (
                f"{name} is a {job} and earns {rate} dollars an hour.",
                f"As a {job} {name} gets {rate} dollars per hour.",
            )
        ),
        d.pick((f"{name} works {hours} hours a day.", f"A work day has {hours} hours.")),
    ]
    total = rate * hours
    if steps in (2, 4, 5, 6):
        days = d.number(2, 9)
        text.append(d.pick((f"{name} works {days} days.", f"This goes on for {days} days.")))
        total = total * days
    if steps >= 5:
        extra, high = d.number(2, 12), d.number(12, 40)
        text.append(
            d.pick(
                (
                    f"{name} also works {extra} hours at night for {high} dollars an hour.",
                    f"For {extra} more hours the pay is {high} dollars an hour.",
                )
            )
        )
        total = total + extra * high
    if steps == 3 or steps == 4 or steps == 6:
        tax = d.number(5, 40, 5)
        text.append(d.pick((f"{tax}% of it is tax.", f"The state takes {tax}% of it.")))
        total = total - tax.percent_of(total)
    if steps == 5:
        bus = d.number(5, 60)
        text.append(f"The bus costs {name} {bus} dollars.")
        total = total - bus
    return Story(
        tuple(text),
        d.pick(
            (
                f"How many dollars does {name} have in the end?",
                f"How much money does {name} have in the end?",
            )
        ),
        total,
        (*_about(name), "The way to work is {} miles."),
    )


def reading(d: Draft, steps: int) -> Story:
    """Pages per day."""
    name = d.pick(NAMES)
    pages, days = d.number(5, 60), d.number(2, 9)
    book = d.number(150, 900, 10)
    text = [
        d.pick(
            (f"{name} reads a book of {book} pages.", f"A book has {book} pages and {name} reads it.")
        ),
        d.pick(
            (
                f"For {days} days {name} reads {pages} pages a day.",
                f"{name} reads {pages} pages a day for {days} days.",
            )
        ),
    ]
    total = pages * days
    if steps >= 4:
        more, later = d.number(5, 60), d.number(2, 9)
        text.append(
            d.pick(
                (
                    f"Then {name} reads {more} pages a day for {later} days.",
                    f"The next {later} days it is {more} pages a day.",
                )
            )
        )
        total = total + more * later
    left = book - total
    if steps == 2 or steps == 4:
        return Story(
            tuple(text),
            d.pick(("How many pages are left?", "How many pages are still to read?")),
            left,
            _about(name),
        )
    if steps == 6:
        text.append(f"{name} skips half of the other pages.")
        left = left / 2
        whole(left)
    end = d.divisor(left, 2, 12)
    return Story(
        tuple(text),
        d.pick(
            (
                f"How many pages a day must {name} read to finish in {end} days?",
                f"The rest takes {end} days. How many pages a day is that?",
            )
        ),
        left / end,
        (*_about(name), "The book costs {} dollars."),
    )


def growth(d: Draft, steps: int) -> Story:
    """A number that grows and shrinks by percentages."""
    what, place = d.pick(
        (
            ("people", "town"),
            ("fish", "lake"),
            ("trees", "wood"),
            ("bees", "hive"),
            ("students", "school"),
            ("deer", "valley"),
        )
    )
    n, up = d.number(100, 900, 20), d.number(5, 50, 5)
    text = [
        d.pick((f"A {place} has {n} {what}.", f"There are {n} {what} in a {place}.")),
        d.pick((f"In a year the number grows by {up}%.", f"A year later there are {up}% more.")),
    ]
    total = n + up.percent_of(n)
    if steps in (3, 5, 6):
        more = d.number(5, 90)
        text.append(
            d.pick((f"Then {more} {what} come from outside.", f"After that {more} {what} are added."))
        )
        total = total + more
    if steps >= 4:
        down = d.number(5, 50, 5)
        text.append(
            d.pick(
                (
                    f"In the next year the number falls by {down}%.",
                    f"The next year {down}% of them are gone.",
                )
            )
        )
        total = total - down.percent_of(total)
    if steps == 6:
        gone = d.number(5, 60)
        text.append(f"In the end {gone} {what} leave.")
        total = total - gone
    whole(total)
    return Story(
        tuple(text),
        d.pick((f"How many {what} are there then?", f"How many {what} are there in the end?")),
        total,
        (f"The {place} is {{}} years old.", f"The {place} is {{}} miles wide."),
    )


def harvest(d: Draft, steps: int) -> Story:
    """Rows of plants and what they bear."""
    name, (fruit, plant) = (
        d.pick(NAMES),
        d.pick(
            (
                ("tomatoes", "plants"),
                ("apples", "trees"),
                ("pears", "trees"),
                ("melons", "vines"),
                ("peppers", "plants"),
            )
        ),
    )
    rows, each, bear = d.number(2, 12), d.number(2, 15), d.number(3, 15)
    text = [
        d.pick(
            (
                f"{name} has {rows} rows of {each} {plant}.",
                f"In {rows} rows {name} grows {each} {plant} each.",
            )
        ),
        d.pick(
            (f"Each of the {plant} bears {bear} {fruit}.", f"Every one of them gives {bear} {fruit}.")
        ),
    ]
    total = rows * each * bear
    if steps >= 3:
        bad = d.number(3, 60)
        text.append(d.pick((f"Birds eat {bad} {fruit}.", f"{bad} {fruit} are rotten.")))
        total = total - bad
    if steps >= 4:
        price = d.number(2, 6)
        text.append(
            d.pick(
                (
                    f"{name} sells the rest for {price} dollars each.",
                    f"All others are sold for {price} dollars each.",
                )
            )
        )
        total = total * price
    if steps >= 5:
        cost = d.number(10, 90)
        text.append(d.pick((f"Water costs {cost} dollars.", f"A helper gets {cost} dollars.")))
        total = total - cost
    if steps == 6:
        text.append("Half of the money is put in a bank.")
        total = total / 2
    ask = (
        f"How many {fruit} are there?"
        if steps == 2
        else f"How many {fruit} are left?"
        if steps == 3
        else f"How many dollars does {name} have from it?"
        if steps < 6
        else "How many dollars are put in the bank?"
    )
    return Story(tuple(text), ask, total, (*_about(name), "The farm has {} cows."))


def rental(d: Draft, steps: int) -> Story:
    """A fixed fee and a price per unit, shared or compared."""
    name, (thing, unit) = (
        d.pick(NAMES),
        d.pick(
            (
                ("boat", "day"),
                ("bike", "day"),
                ("car", "week"),
                ("hall", "month"),
                ("tent", "night"),
                ("piano", "week"),
            )
        ),
    )
    fee, rate, n = d.number(5, 60), d.number(3, 40), d.number(2, 12)
    text = [
        d.pick(
            (
                f"To rent a {thing} costs {fee} dollars plus {rate} dollars for each {unit}.",
                f"The price of a {thing} is {rate} dollars a {unit} and a fee of {fee} dollars.",
            )
        ),
        d.pick((f"{name} rents it for {n} {unit}s.", f"{name} keeps it for {n} {unit}s.")),
    ]
    total = rate * n + fee
    noise = (*_about(name), f"The {thing} is {{}} years old.")
    if steps == 3 and d.chance(0.5):
        friends = d.number(2, 6)
        text.append(f"{friends} friends share the price equally.")
        return Story(tuple(text), "How many dollars does each friend pay?", total / friends, noise)
    if steps >= 4:
        off = d.number(5, 50, 5)
        text.append(
            d.pick(
                (f"A member pays {off}% less, and {name} is one.", f"{name} gets {off}% off all of it.")
            )
        )
        total = total - off.percent_of(total)
    if steps == 6:
        damage = d.number(5, 60)
        text.append(f"A repair costs {damage} dollars more.")
        total = total + damage
    if steps in (3, 5, 6):
        have = d.number(50, 600, 10)
        return Story(
            tuple(text),
            d.pick(
                (
                    f"{name} had {have} dollars. How many dollars are left?",
                    f"How many dollars are left of {have} dollars?",
                )
            ),
            have - total,
            noise,
        )
    return Story(
        tuple(text),
        d.pick((f"How much does {name} pay?", f"How many dollars does {name} pay?")),
        total,
        noise,
    )


def schedule(d: Draft, steps: int) -> Story:
    """Minutes per task; hours as the answer or minutes left."""
    name, (one, two) = (
        d.pick(NAMES),
        d.two(("letters", "rooms", "cars", "windows", "desks", "bikes", "plates", "shoes")),
    )
    n, each = d.number(2, 15), d.number(3, 30)
    text = [
        d.pick(
            (
                f"{name} cleans {n} {one} and needs {each} minutes for each.",
                f"It takes {name} {each} minutes to clean one of the {one}, and there are {n}.",
            )
        )
    ]
    total = n * each
    if steps >= 4:
        m, more = d.number(2, 15), d.number(2, 20)
        text.append(
            d.pick(
                (
                    f"After that {name} cleans {m} {two} in {more} minutes each.",
                    f"Then come {m} {two} that take {more} minutes each.",
                )
            )
        )
        total = total + m * more
    if steps in (3, 5, 6):
        rest = d.number(4, 50)
        text.append(
            d.pick((f"{name} makes a break of {rest} minutes.", f"A break takes {rest} minutes."))
        )
        total = total + rest
    if steps == 6:
        hours = d.number(3, 12)
        text.append(
            d.pick(
                (f"The whole day has {hours} work hours.", f"{name} has {hours} hours for all of it.")
            )
        )
        return Story(tuple(text), "How many hours are left?", hours - total / 60, _about(name))
    return Story(
        tuple(text),
        d.pick(("How many hours is that in all?", "How many hours does it all take?")),
        total / 60,
        (*_about(name), "The clock has cost {} dollars."),
    )


FAMILIES: dict[str, Kind] = {
    "shopping": Kind(shopping),
    "savings": Kind(savings),
    "sharing": Kind(sharing),
    "travel": Kind(travel),
    "machines": Kind(machines),
    "discount": Kind(discount, constants=(1, 2, 100)),
    "ages": Kind(ages),
    "recipe": Kind(recipe),
    "profit": Kind(profit),
    "mixture": Kind(mixture, constants=(2, 100)),
    "garden": Kind(garden),
    "units": Kind(units, constants=(2, 7, 12, 24, 60)),
    "tickets": Kind(tickets),
    "fuel": Kind(fuel),
    "average": Kind(average, constants=(2, 3, 4, 5)),
    "comparison": Kind(comparison),
    "fractions": Kind(fractions),
    "packing": Kind(packing, constants=(1, 2, 100)),
    "wages": Kind(wages, constants=(1, 2, 100)),
    "reading": Kind(reading),
    "growth": Kind(growth, constants=(1, 2, 100)),
    "harvest": Kind(harvest),
    "rental": Kind(rental, constants=(1, 2, 100)),
    "schedule": Kind(schedule, constants=(2, 60)),
}
"""Name → family."""
