"""The tasks of reasoning-gym that data=reasoning uses, by family.

Left out are tasks whose rows are mostly longer than 700 characters, that have no answer of their own, that take 0.2 s a
row and more to make, or whose scorer runs an answer or a stored one as Python, arithmetic apart.
"""

FAMILIES = {
    "algebra": (
        "complex_arithmetic intermediate_integration polynomial_multiplication simple_equations simple_integration"
    ),
    "algorithmic": (
        "ab base_conversion binary_alternation caesar_cipher count_primes cryptarithm "
        "game_of_life_halting isomorphic_strings letter_counting letter_jumble manipulate_matrix "
        "number_filtering palindrome_generation pool_matrix ransom_note rotate_matrix sentence_reordering "
        "spell_backward word_ladder word_sequence_reversal word_sorting"
    ),
    "arithmetic": (
        "basic_arithmetic calendar_arithmetic chain_sum count_bits decimal_arithmetic decimal_chain_sum "
        "dice fraction_simplification gcd gsm_symbolic lcm leg_counting number_format power_function "
        "prime_factorization products time_intervals"
    ),
    "code": "bf",
    "cognition": "color_cube_rotation figlet_font number_sequence",
    "games": "countdown kakurasu maze mini_sudoku survo tsumego",
    "geometry": "advanced_geometry simple_geometry",
    "graphs": "course_schedule family_relationships largest_island path_star",
    "induction": "list_functions",
    "logic": "aiw knights_knaves self_reference syllogism",
    "probability": "coin_flip",
}

TASKS = {task: family for family, tasks in FAMILIES.items() for task in tasks.split()}  # task to family
