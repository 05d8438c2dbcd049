"""Names that could be taken for something else: markup, code, formulas, patterns, controls."""

NASTY = (
    "[bold]x", "[/x]", "[link=file:///etc/passwd]x[/link]", ":smile:", "<b>bold</b>",
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</title><script>x</script>",
    "a&lt;b & c", "javascript:alert(1)", "\"onload='x'", "it's \"quoted\"", "'x", "back\\slash",
    "a\rb", "a\nb", "\ttab\t", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202egnp.exe",
    "a\u2028b", "=1+2", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "a|b", "*a* _b_ `c`",
    "$x_1$", "$",
    "$\\frac{1}{2}$", "x^2_3", "%s %d {0} {x}", "${HOME} $(id)", "{{7*7}}", "{% for x in y %}",
    "../../etc/passwd", "n" * 200, "non\u00a0breaking", "zero\u200bwidth", "\U0001f98a fox",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "caf\u00e9", "\u5b57",
    ",;\t\"", " a ", "1e5", "#", "nan",
)  # fmt: skip
HALF = "half \udc80"  # as a name in another encoding is read; it has no UTF-8
