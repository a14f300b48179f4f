"""The core checks of exercise 1_2: the calculator's tasks, run by a real worker.

Inputs are drawn from `lab.rng`, which `--seed N` repeats. Each error row also calls a good
neighbour, so that a task that always fails can't pass it.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction

from grader.check import check, hint
from grader.expect import answers, fails_with, returns

NOT_FINITE = [math.nan, math.inf, -math.inf, "nan", "inf", "-Infinity"]
NOT_NUMBERS = [None, "abc", "", [], [1, 2], {}, {"a": 1}, *NOT_FINITE]
ZEROS = [0, 0.0, -0.0, "0", "0.00"]
OPERATORS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
}
TASKS = {
    ("add", 1, 2): 3.0,
    ("subtract", 9, 2): 7.0,
    ("multiply", 3, 2): 6.0,
    ("divide", 9, 2): 4.5,
    ("power", 2, 3): 8.0,
    ("sqrt", 16): 4.0,
    ("factorial", 5): 120,
    ("fibonacci", 10): 55,
}
RELATIVE = 1e-12


def exact(operation, x, y):
    """Return the exact result of two decimal operands, rounded once to the nearest float."""
    return float(OPERATORS[operation](Fraction(str(x).strip()), Fraction(str(y).strip())))


def power_of(base, exponent):
    """Return base ** exponent, computed with fifty digits."""
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(str(base)) ** Decimal(str(exponent)))


def decimal_operand(rng):
    """Draw a number of at most 15 digits between 1e-9 and 1e9, of either sign."""
    digits, shift = rng.randint(1, 10**15 - 1), rng.randint(6, 23)
    number = Decimal(digits).scaleb(-shift)
    small = not Decimal("1e-9") <= number <= Decimal("1e9")
    return decimal_operand(rng) if small else float(number) * rng.choice((1, -1))


def unkind_pair(rng, operation):
    """Draw two operands for which binary floats and exact decimals give different answers."""
    while True:
        x, y = decimal_operand(rng), decimal_operand(rng)
        if OPERATORS[operation](x, y) != exact(operation, x, y):
            return x, y


def narrow_pair(rng, operation, digits):
    """Draw two operands whose result, rounded to so many digits first, is another float."""
    with localcontext(prec=60):  # enough for every result
        while True:
            x, y = decimal_operand(rng), decimal_operand(rng)
            result = OPERATORS[operation](Decimal(str(x)), Decimal(str(y)))
            if float(result) != float(Context(prec=digits).plus(result)):
                return x, y


def compare(lab, values=(), errors=(), rel=0.0, within=5.0):
    """Send everything at once, then yield each call with what is expected of it.

    Args:
        values: ((function, *args), value) rows, compared to a relative error of `rel`.
        errors: (function, *args) rows that fail; yielded with None.
    """
    rows = [
        *((row, returns(value, rel=rel)) for row, value in values),
        *((r, None) for r in errors),
    ]
    calls = lab.calls([row for row, _ in rows], within)
    yield from ((call, wanted) for call, (_, wanted) in zip(calls, rows, strict=True))


@check
def test_basic_arithmetic(lab):
    """add, subtract, multiply and divide answer whole numbers and simple fractions."""
    a, b = lab.rng.randint(2, 999), lab.rng.randint(2, 999)
    pairs = [(a, -b), (a + 0.5, b), (0, a)]
    rows = [
        ((op, x, y), exact(op, x, y)) for op in ("add", "subtract", "multiply") for x, y in pairs
    ]
    rows += [(("divide", a * 4, 8), a / 2), (("divide", 7, -2), -3.5), (("divide", 0, a), 0.0)]
    rows += [(("divide", -7, 2), -3.5), (("divide", -a * 4, -8), a / 2)]
    thirds = [(("divide", x, y), x / y) for x, y in ((a, 7), (-a, 3), (0.001, a))]

    missing = lab.unregistered(["add", "subtract", "multiply", "divide"])
    assert lab.fact(not missing, "registered", missing=missing, found=lab.tasks)
    for call, wanted in compare(lab, rows):
        assert call == wanted
    for call, wanted in compare(lab, thirds, rel=RELATIVE):
        assert call == wanted


@check(after=test_basic_arithmetic)
def test_failures_disturb_nothing(lab):
    """After a burst of failures of mixed kinds the next calculations are right."""
    # This check comes early: the worker's processes have met no failure yet.
    failing = [("add", None, 1), ("divide", 1, 0), ("factorial", -1), ("power", 10, 400)]
    failing += [("sqrt", -1), ("add", 1), ("multiply", "abc", 2), ("power", 0, -1)]
    good = [(op, *unkind_pair(lab.rng, op)) for op in ("add", "subtract", "multiply") * 3]

    burst = lab.calls(good + failing)

    # Compared with the same calls before the burst: how exact they are is another criterion, and
    # so is whether they have a result.
    before = zip(good, burst[: len(good)], strict=True)
    after = [(row, call.reply.result) for row, call in before if call in answered(burst)]
    after.append((("divide", 7, 2), 3.5))
    for call, wanted in compare(lab, after):
        assert call == wanted


@check(after=test_basic_arithmetic)
def test_plain_json_results(lab):
    """Results are stored as plain JSON numbers: floats, and whole numbers where they are exact."""
    a = lab.rng.randint(2, 99)
    floats = [("add", a, 1), ("subtract", a, 1), ("multiply", a, 2), ("divide", a * 2, 2)]
    floats += [("power", 2, 3), ("sqrt", 16)]
    whole = [("factorial", 5), ("fibonacci", 10)]

    float_calls, whole_calls = lab.send_all(floats), lab.send_all(whole)
    lab.finish(float_calls + whole_calls)

    for call in answered(float_calls):
        assert lab.fact(is_float(call), "json_float", **stored(call)), hint("integer_result")
    for call in answered(whole_calls):
        assert lab.fact(is_whole(call), "json_integer", **stored(call)), hint("float_result")


def answered(calls):
    """Leave out what failed: another criterion judges whether these tasks work at all."""
    return [call for call in calls if call.reply and call.reply.succeeded]


def is_float(call):
    return isinstance(call.reply.result, float)


def is_whole(call):
    return isinstance(call.reply.result, int) and not isinstance(call.reply.result, bool)


def stored(call):
    return {"call": call, "value": repr(call.reply.result)}


@check(after=test_basic_arithmetic)
def test_decimal_exactness(lab):
    """add, subtract and multiply give the exact decimal result, rounded once: 0.1 + 0.2 is 0.3."""
    pairs = [("add", 0.1, 0.2), ("add", "0.1", 0.2), ("subtract", 0.3, 0.1), ("multiply", 1.1, 1.1)]
    # What is small is no zero.
    pairs += [("multiply", 0.00003, 0.00002), ("subtract", "1.000000001", 1), ("add", 1e-9, 0)]
    for operation in ("add", "subtract", "multiply"):
        pairs += [(operation, *unkind_pair(lab.rng, operation)) for _ in range(3)]
        pairs += [(operation, *narrow_pair(lab.rng, operation, n)) for n in (16, 17, 18)]

    for call, wanted in compare(lab, [(row, exact(*row)) for row in pairs]):
        assert call == wanted, hint("binary_float" if is_binary(call) else "default")


def is_binary(call):
    """Whether the result is what Python's floats make of the two operands."""
    operation = OPERATORS[call.task.rpartition(".")[2]]
    result = operation(*(float(value) for value in call.args))
    return bool(call.reply) and call.reply.result == result


@check(after=test_basic_arithmetic)
def test_numeric_strings(lab):
    """Numbers may come as text, also with blanks around them."""
    n = lab.rng.randint(2, 500)
    texts = [(f"{n}.5", 2), (f" {n} ", 3), (f"-{n}", "4"), (8, " 2 "), ("1e3", n)]
    rows = [
        ((op, x, y), exact(op, x, y)) for x, y in texts for op in ("add", "subtract", "multiply")
    ]
    rows += [(("divide", f"{n * 2}", " 4 "), n / 2), (("power", "2", " 3 "), 8.0)]
    rows += [(("sqrt", f" {n * n} "), float(n))]

    for call, wanted in compare(lab, rows, rel=RELATIVE):
        assert call == wanted, hint("text_refused")


@check(after=test_basic_arithmetic)
def test_refuses_non_numbers(lab):
    """Whatever is not a finite number is a ValueError: None, text, lists, nan, inf."""
    good = lab.rng.randint(2, 99)
    # A mistake may be in one operation, and on one side of it: these stand in every place.
    most = [None, "", math.nan, lab.rng.choice((math.inf, -math.inf))]
    places = [(op, side) for op in (*OPERATORS, "power") for side in (1, -1)]
    drawn = [(*lab.rng.choice(places), value) for value in NOT_NUMBERS]
    rows = drawn + [(*place, value) for place in places for value in most]
    bad = [(op, *(value, good)[::side]) for op, side, value in rows]

    for call, wanted in compare(lab, [(("add", good, good), good * 2.0)], bad):
        odd = any(value in NOT_FINITE or value != value for value in call.args)
        wanted = wanted or fails_with("ValueError")
        assert call == wanted, hint("nan_accepted" if odd else "default")


@check(after=test_refuses_non_numbers)
def test_names_the_value(lab):
    """The message of every ValueError holds the repr of an offending value."""
    word = "".join(lab.rng.choices("bcdfghjk", k=6))
    bad = [word, None, "", [lab.rng.randint(1, 9), 2], {word: 1}, math.nan, -math.inf]
    rows = [((lab.rng.choice(list(OPERATORS)), value, 7), [value]) for value in bad]
    rows += [((op, 7, value), [value]) for op in OPERATORS for value in (word, None)]
    rows += [(("add", value, 7), [value]) for value in (word * 7, [word] * 8)]
    rows += [(("power", word, 2), [word]), (("power", 2, word), [word])]
    singles = [("sqrt", -lab.rng.randint(2, 999)), ("factorial", 2.7), ("fibonacci", 101)]
    rows += [(row, [row[1]]) for row in singles] + [(("power", -8, 0.5), [-8, 0.5])]

    calls = lab.calls([row for row, _ in rows])
    for call, (_, wanted) in zip(calls, rows, strict=True):
        if not (call.reply and call.reply.failed and call.reply.error_type == "ValueError"):
            continue  # other criteria judge the kind of error
        named = any(repr(value) in call.reply.error_message for value in wanted)
        said = {"call": call, "repr": repr(wanted[0]), "message": repr(call.reply.error_message)}
        bare = any(str(value) in call.reply.error_message for value in wanted if value != "")
        assert lab.fact(named, "names_value", **said), hint("no_quotes" if bare else "default")


@check(after=test_basic_arithmetic)
def test_division_by_zero(lab):
    """Dividing by any zero is a ZeroDivisionError, 0/0 too, whatever form the zero has."""
    n = lab.rng.randint(1, 999)
    good = [(("divide", 0, n), 0.0), (("divide", n, "0.5"), n * 2.0)]
    bad = [("divide", n, zero) for zero in ZEROS] + [("divide", 0, 0), ("divide", "0", "0.00")]

    for call, wanted in compare(lab, good, bad):
        text = call.args[1] in ("0", "0.00")
        wanted = wanted or fails_with("ZeroDivisionError")
        assert call == wanted, hint("zero_text" if text else "default")


@check(after=test_basic_arithmetic)
def test_powers(lab):
    """power answers to a relative error of 1e-12 and refuses what has no real result."""
    pairs = [(2, 10), (2, -1), (9, 0.5), (-8, 3), (-2, -3), (0, 2), ("2.5", "-2")]
    pairs += [(-8, 3.0), ("-2", "3")]  # whole exponents, though no ints
    for _ in range(5):
        pairs.append((round(lab.rng.uniform(0.1, 99), 4), round(lab.rng.uniform(-8, 8), 3)))
    good = [(("power", base, exponent), power_of(base, exponent)) for base, exponent in pairs]
    zero = [("power", 0, -1), ("power", "0", -1), ("power", 0.0, -2.5), ("power", 0, "-3")]
    no_root = [("power", -8, 0.5), ("power", "-2", "1.5"), ("power", -9, -0.5)]

    for call, wanted in compare(lab, good, zero + no_root, rel=RELATIVE):
        if wanted:
            assert call == wanted
        elif float(call.args[0]) == 0:
            assert call == fails_with("ZeroDivisionError"), hint("zero_to_negative")
        else:
            assert call == fails_with("ValueError"), hint("no_real_root")


@check(after=test_basic_arithmetic)
def test_overflow(lab):
    """A result that no float can hold is an OverflowError, and huge exponents answer at once."""
    finite = [(("multiply", 1e200, 1e100), 1e300), (("power", 1, 10**15), 1.0)]
    too_big = [("power", 10, 400), ("multiply", 1e200, 1e200), ("add", 1.7e308, "1.7e308")]
    too_big += [("divide", 1e300, 1e-300), ("subtract", -1.7e308, 1.7e308), ("power", "1e200", 2)]
    too_big += [("power", "9e307", 1.5), ("multiply", "1e300", "1e300")]
    huge = [("power", 2, 10**15), ("power", 7.5, 10 ** lab.rng.randint(12, 17))]
    # A parser that works with floats takes these for infinite; that it answers, never inf, is due.
    long = [("add", "1e999999", 1), ("sqrt", "1e999999"), ("power", "1e400", 1)]
    long += [("multiply", "1e999999", "1e999999"), ("power", "1e999999", 2)]

    for call, wanted in compare(lab, finite, too_big, rel=RELATIVE):
        assert call == (wanted or fails_with("OverflowError")), hint("inf_result")
    tiny = [(("power", 0.5, 10**15), 0.0), (("power", 2, -(10**15)), 0.0)]
    # One by one: what one of them costs is not held against the next.
    for row, value in tiny:
        call = lab.call(*row, within=2)
        assert call == returns(value), hint("slow_power" if call.reply is None else "too_small")
    for row in huge + long:
        call = lab.call(*row, within=2)
        text = isinstance(call.args[0], str)
        wanted = fails_with("OverflowError", "ValueError") if text else fails_with("OverflowError")
        late = call.reply is None
        assert call == wanted, hint("slow_power" if late else "inf_result")


@check(after=test_basic_arithmetic)
def test_factorial_is_exact(lab):
    """factorial is exact from 0 to 1000, for an int, an integral float and integral text."""
    numbers = [0, 1, 5.0, "6", *lab.rng.sample(range(22, 170), 2), 171, 999, 1000, "1000"]
    rows = [(("factorial", n), math.factorial(int(float(n)))) for n in numbers]

    for call, wanted in compare(lab, rows):
        assert call == wanted


def fibonacci(n):
    """Return the n-th Fibonacci number, counted from fibonacci(0) == 0."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@check(after=test_basic_arithmetic)
def test_fibonacci_is_exact(lab):
    """fibonacci is exact from 0 to 100, for an int, an integral float and integral text."""
    numbers = [0, 1, 2, 3, 10.0, "12", *lab.rng.sample(range(20, 90), 2), 99, 100]
    rows = [(("fibonacci", n), fibonacci(int(float(n)))) for n in numbers]

    for call, wanted in compare(lab, rows):
        assert call == wanted


@check(after=(test_factorial_is_exact, test_fibonacci_is_exact))
def test_whole_numbers_only(lab):
    """factorial and fibonacci refuse what is not whole, negative or over the limit: ValueError."""
    part = round(lab.rng.randint(2, 30) + lab.rng.uniform(0.1, 0.9), 2)
    both = [2.7, part, "3.5", -1, -2.0, "-3", None, "abc", [3], math.nan, math.inf]
    calls = [(op, value) for op in ("factorial", "fibonacci") for value in both]
    calls += [("factorial", 1001), ("factorial", "1001"), ("fibonacci", 101), ("fibonacci", 101.0)]
    huge = [lab.call(op, "1e999999", within=2) for op in ("factorial", "fibonacci")]

    for call in lab.calls(calls) + huge:
        cut = call.reply is not None and call.reply.succeeded
        assert call == fails_with("ValueError"), hint("truncates" if cut else "default")


@check(after=test_basic_arithmetic)
def test_square_roots(lab):
    """sqrt answers to a relative error of 1e-12 and refuses negatives and non-numbers."""
    numbers = [0, 16, 2, 0.25, "9", 1e300, decimal_operand(lab.rng) ** 2, lab.rng.uniform(1, 1e9)]
    good = [(("sqrt", n), math.sqrt(float(n))) for n in numbers]
    bad = [("sqrt", n) for n in (-4, "-1", -1e-9, "abc", None, math.nan, math.inf, [4])]

    for call, wanted in compare(lab, good, bad, rel=RELATIVE):
        mistake = "negative" if call.args[0] in (-4, "-1", -1e-9) else "default"
        assert call == (wanted or fails_with("ValueError")), hint(mistake)


@check(after=(test_refuses_non_numbers, test_division_by_zero))
def test_built_in_errors(lab):
    """The exception types that reach the result backend are the built-in ones, no subclasses."""
    n = lab.rng.randint(2, 99)
    calls = [("add", "abc", n), ("multiply", math.nan, n), ("divide", n, 0), ("divide", 0, 0)]
    calls += [("divide", n, "0.00"), ("divide", None, n), ("power", 0, -1), ("power", -8, 0.5)]
    calls += [("power", 10, 400), ("multiply", 1e200, 1e200), ("factorial", -n), ("factorial", 2.7)]
    calls += [("fibonacci", 101), ("sqrt", -n), ("sqrt", "abc")]
    calls += [("multiply", "1e999999", "1e999999"), ("divide", "1e999999", "1e-999999")]

    for call in lab.calls(calls):
        if call.reply and call.reply.failed:  # whether it fails at all, other criteria judge
            said = {"module": call.reply.error_module, "name": call.reply.error_type}
            built_in = said["module"] == "builtins"
            assert lab.fact(built_in, "built_in", call=call, **said), hint("decimal_class")


@check(after=test_basic_arithmetic)
def test_argument_count(lab):
    """A call with too few or too many arguments is a TypeError."""
    rows = [wrong for row in TASKS for wrong in (row[:-1], (*row, 2))]
    for call in lab.calls(rows):
        assert call == fails_with("TypeError")


# A task may be tried again on some errors and not on others.
ONE_OF_EACH = [
    *(("divide", 1, 0), ("add", "abc", 1), ("multiply", 1e200, 1e200), ("subtract", None, 1)),
    *(("power", 10, 400), ("power", 0, -1), ("power", -8, 0.5), ("sqrt", -4)),
    *(("factorial", -1), ("fibonacci", 2.7)),
]


@check(after=test_basic_arithmetic)
def test_fails_once(lab):
    """A failing call runs once: a wrong input does not get better by a retry."""
    with lab.tapped():
        calls = lab.calls(ONE_OF_EACH)

    for call in calls:
        # Each retry is a message of its own, published before the last attempt has its result.
        times = lab.history.published(call.id)
        assert call == answers()
        assert lab.fact(times == 1, "one_execution", call=call, times=times), hint("retried")


@check(after=test_basic_arithmetic)
def test_work_is_done_by_the_worker(lab):
    """Another process calls add.delay: the broker gets a message, the worker stores the result."""
    a, b = lab.rng.randint(1, 999), lab.rng.randint(1, 999)

    with lab.frozen():
        call, seen = delayed(lab, a, b)
        early = call and not lab.publisher.fetch([call])
    assert lab.fact(call and lab.history.message(call.id), "published", seen=seen), hint("not_sent")
    assert lab.fact(not early, "not_eager", call=call), hint("not_sent")

    assert lab.finish([call])[0] == returns(float(a + b))


@check(after=test_work_is_done_by_the_worker)
def test_json_only(lab):
    """Messages and stored results are JSON, nothing is pickled."""
    call, seen = delayed(lab, 1, 2)
    assert lab.fact(call and lab.history.message(call.id), "published", seen=seen), hint("pickled")
    lab.finish([call])

    assert_json_on_the_wire(lab, call)
    assert call == returns(3.0), hint("pickled")
    for call in lab.finish(delayed_each(lab)):
        assert_json_on_the_wire(lab, call)
        # Whether it is right, other criteria judge.
        readable = call.reply is None or call.reply.state != "unreadable"
        assert readable or call == answers(), hint("pickled")


def assert_json_on_the_wire(lab, call):
    """The message of a call says that it is JSON; one that was not seen says nothing."""
    message = lab.history.message(call.id)
    kind = message.content_type if message else "application/json"
    said = {"what": f"{call.task.rpartition('.')[2]}.delay", "seen": kind}
    assert lab.fact(kind == "application/json", "wire_json", **said), hint("pickled")


def delayed_each(lab):
    """Have a client process call each task's `delay`; return the calls of those that it has."""
    with lab.tapped():
        sent = [(row, lab.client.delay(*row)) for row in TASKS]
    return [lab.adopt(answer.value, *row) for row, answer in sent if not answer.error]


def delayed(lab, a, b):
    """Have a client process call add.delay(a, b); return the call, and what was seen of it."""
    with lab.tapped():
        answer = lab.client.delay("add", a, b)
        if answer.error:
            return None, answer.error
        call = lab.adopt(answer.value, "add", a, b)
    return call, lab.history.published(call.id)
