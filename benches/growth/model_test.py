"""The model finds what was planted, and the page says what the model does."""

import unittest

import model


class TheModel(unittest.TestCase):
    def test_the_fit_finds_the_coefficients_that_made_the_lines(self):
        true = [0.3, 7e-6, 0.0]
        factors = [[1, rate, deliveries] for rate in (10, 100, 10_000) for deliveries in (0, 1_000, 50_000)]
        rows = [(model.predicted(true, each), each) for each in factors]
        for found, planted in zip(model.fit(rows), true):
            self.assertAlmostEqual(found, planted, delta=1e-3 * max(true))

    def test_the_page_says_what_the_model_does(self):
        page = model.PAGE.read_text(encoding="utf-8")
        told = model.blocks(model.replica(), model.broker())
        self.assertEqual(page, model.written(page, told), "python3 benches/growth/model.py --write")

    def test_what_has_no_place_on_the_page_is_not_lost_in_silence(self):
        with self.assertRaisesRegex(ValueError, "no place on the page for limits"):
            model.written("<!-- model.py: clients -->\nold\n<!-- end -->\n", {"clients": "new", "limits": "x"})

    def test_a_block_stands_as_far_to_the_right_as_its_marks(self):
        page = "- a list\n   <!-- model.py: clients -->\n   old\n   <!-- end -->\nmore\n"
        written = model.written(page, {"clients": "one\n\ntwo"})
        self.assertEqual(written, "- a list\n   <!-- model.py: clients -->\n   one\n\n   two\n   <!-- end -->\nmore\n")


if __name__ == "__main__":
    unittest.main()
